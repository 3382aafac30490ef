"""`packager bench`: measure a server's first tokens, gaps and throughput under a load."""

import asyncio
import json
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError, Problem
from .api_key import api_key, is_key
from .console import Console

if TYPE_CHECKING:
    from ..bench.client import Target
    from ..bench.outcome import Outcome
    from ..bench.report import Setting
    from ..bench.workload import Question
    from .progress import Progress

_BACKENDS = {"completions": "openai", "chat": "openai-chat", "predict": "packager-predict"}
"""vLLM's words for what is asked, where it has one."""
_FAILED, _INTERRUPTED = 1, 130
_WORDS = 128
_TALK_EVERY = 5.0
"""Seconds between two lines about how far it is."""


@click.command("bench")
@click.argument("url")
@click.option("--model", help="Name of the model in requests; `predict` takes none.")
@click.option(
    "--api",
    type=click.Choice(tuple(_BACKENDS)),
    default="completions",
    show_default=True,
    help="OpenAI's completions or chat completions, or packager's /predict.",
)
@click.option("--prompts", type=click.IntRange(1), default=100, show_default=True, help="How many requests.")
@click.option("--concurrency", type=click.IntRange(1), help="Most requests at once; without --rate, 1.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second, in a Poisson process.")
@click.option(
    "--burstiness",
    type=click.FloatRange(0, min_open=True),
    help="Of the arrivals of --rate: below 1 in bursts, above 1 more evenly; without it 1.",
)
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Of each answer.")
@click.option("--input-words", type=click.IntRange(1), help="Of each drawn prompt; without it 128.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='Prompts to use instead, as JSON lines {"prompt": TEXT, "output_tokens": N}, the number optional.',
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of prompts and arrivals.")
@click.option("--ignore-eos", is_flag=True, help="Ask for answers of the full length (`ignore_eos`).")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600,
    show_default=True,
    help="Seconds for one request.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File whose first line is the key to send; without it PACKAGER_API_KEY.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Write everything there, as JSON with vLLM's keys.")
@click.pass_context
def command(ctx: click.Context, /, url: str, **options: Any) -> None:
    """Measure the server at URL: time to the first token, gaps, throughput.

    What is measured is defined as in vLLM's `bench serve`, and the JSON has its keys. Without --rate
    there are always --concurrency requests under way. Requests that fail are counted and are in no
    statistic; with one that failed the exit code is 1. Ctrl-C ends the run and reports what there is.
    """
    from ..bench.report import lines, result
    from .progress import Progress

    console: Console = ctx.obj
    _settle(options)
    target, questions = _target(url, options), _questions(options)
    if options["output"]:
        _check_writable(options["output"])
    with Progress.start(quiet=console.quiet) as progress:
        outcomes, seconds, whole = _measure(target, questions, options, progress)
    found = result(_setting(url, options), outcomes, seconds)
    for line in lines(found):
        console.result(line)
    if options["output"]:
        options["output"].write_text(json.dumps(found) + "\n", encoding="utf-8")
    if found["failed"]:
        first = next(text for text in found["errors"] if text)
        count = f"{found['failed']} of {found['num_prompts']} requests failed"
        console.problem(Problem(f"{count}; the first: {first}", where=url))
    ctx.exit(_INTERRUPTED if not whole else _FAILED if found["failed"] else 0)


def _check_writable(file: Path) -> None:
    """Raise OutputError now for a result that could not be written: not when everything is measured."""
    try:
        file.open("a").close()
    except OSError as error:
        what = f"the result cannot be written: {(error.strerror or str(error)).lower()}"
        raise OutputError(what, where=str(file), mend="name another file with --output") from error


def _measure(
    target: "Target", questions: "list[Question]", options: Mapping[str, Any], progress: "Progress"
) -> "tuple[list[Outcome], float, bool]":
    """What ended, in how many seconds, and whether that is all."""
    from ..bench.client import Client, run_load
    from ..bench.workload import arrivals

    outcomes: list[Outcome] = []
    spoke = time.monotonic()

    def on_outcome(outcome: "Outcome") -> None:
        nonlocal spoke
        outcomes.append(outcome)
        if time.monotonic() - spoke >= _TALK_EVERY:
            spoke = time.monotonic()
            progress.say(f"  {len(outcomes)} of {len(questions)}")

    due = arrivals(len(questions), options["rate"], options["burstiness"], options["seed"])
    progress.stage(f"{len(questions)} requests")
    whole, begun = True, time.perf_counter()
    try:
        asyncio.run(run_load(Client(target), questions, due, options["concurrency"], on_outcome))
    except KeyboardInterrupt:
        whole = False
    return outcomes, time.perf_counter() - begun, whole


def _settle(options: dict[str, Any]) -> None:
    """Put defaults where nothing was said, and refuse what would have no effect."""
    if options["concurrency"] is None and options["rate"] is None:
        options["concurrency"] = 1
    for name, default, needs, missing in (
        ("burstiness", 1.0, "--rate", options["rate"] is None),
        ("input_words", _WORDS, "drawn prompts, without --data", options["data"] is not None),
    ):
        if options[name] is None:
            options[name] = default
        elif missing:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} needs {needs}")


def _target(url: str, options: Mapping[str, Any]) -> "Target":
    from ..bench.client import Target
    from ..bench.connection import Origin

    try:
        origin = Origin.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'URL'") from None
    named = options["model"] is not None
    if named == (options["api"] == "predict"):
        said = "/predict takes no model" if named else f"--api {options['api']} needs the model's name"
        raise click.BadParameter(said, param_hint="'--model'")
    return Target(
        origin,
        options["api"],
        options["model"],
        extra={"ignore_eos": True} if options["ignore_eos"] else {},
        api_key=_key(options["api_key_file"]),
        timeout=options["timeout"],
    )


def _key(file: Path | None) -> str | None:
    if file is None:
        return api_key() or None
    key = file.read_text("utf-8", errors="replace").partition("\n")[0].strip()
    if not is_key(key):
        raise click.BadParameter(f"{file}: its first line is no key", param_hint="'--api-key-file'")
    return key


def _questions(options: Mapping[str, Any]) -> "list[Question]":
    from ..bench.workload import random_questions, read_questions

    count, limit, file = options["prompts"], options["max_tokens"], options["data"]
    if file is None:
        return random_questions(count, options["input_words"], limit, options["seed"])
    try:
        return read_questions(file.read_text("utf-8"), count, limit)
    except ValueError as error:
        raise click.BadParameter(f"{file}: {error}", param_hint="'--data'") from None


def _setting(url: str, options: Mapping[str, Any]) -> "Setting":
    from importlib.metadata import version

    from ..bench.report import Setting

    told = ("api", "max_tokens", "seed", "ignore_eos", "timeout")
    return Setting(
        date=datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        backend=_BACKENDS[options["api"]],
        model=options["model"],
        requests=options["prompts"],
        rate=options["rate"],
        burstiness=options["burstiness"],
        concurrency=options["concurrency"],
        about={
            "version": version("llm-packager"),
            "url": url,
            **{name: options[name] for name in told},
            "prompts": str(options["data"]) if options["data"] else f"{options['input_words']} random words",
            "client": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        },
    )
