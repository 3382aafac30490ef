"""`packager convert`: the weights of a spec out of the model that it names."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Console
from .progress import Progress, size

if TYPE_CHECKING:
    from ..convert.describe import Told
    from ..convert.plan import ConvertPlan
    from ..convert.source import Found
    from ..lock.tools import Tools
    from ..spec.load import SpecFile
    from ..upload.destination import Destination

_COMMIT = re.compile("[0-9a-f]{40}")
_KEYWORDS = {"BuildConfig": "build_config", "QuantConfig": "quant_config", "CalibConfig": "calib_config"}
"""Each config and the keyword of LLM that takes it."""


@click.command("convert")
@click.argument("spec", default=".")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the engine; a new or an empty one.",
)
@click.option("--upload", is_flag=True, help="Upload the engine to the spec's `weights.source` afterwards.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, with every call, and do nothing.")
@click.option("--image", metavar="REFERENCE", help="The image that this runs in, best by digest, for engine.json.")
@click.option(
    "--gpu-memory",
    "memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="What a GPU must have to run the engine, where that is less than the GPU here has.",
)
@click.pass_obj
def command(console: Console, /, spec: str, *, output: Path, dry_run: bool, **options: Any) -> None:
    """Make the weights of SPEC out of the model that its `conversion` names.

    For `tensorrt_llm_engine`: fetch the model, merge the adapter, quantize and compile with TensorRT-LLM, and describe
    the engine (engine.json). Run it in NVIDIA's image on the kind of GPU that will serve; `--dry-run` runs anywhere, and
    shows the command for that. A folder that was not finished does not get its name; run again, what was fetched is kept.
    """
    from ..catalog import find
    from ..convert.describe import Told
    from ..convert.plan import make_plan
    from ..convert.run import convert
    from ..spec.load import load_spec
    from .tools import make_tools
    from .watching import Shown

    file, told = load_spec(find(spec)), Told(options["memory"], options["image"])
    output = Path(os.path.abspath(output))  # noqa: PTH100  # without .., and links stay as they are
    with Progress.start(quiet=console.quiet) as progress:
        tools = make_tools(progress)
        found = _look(file, tools, beside=dry_run)
        plan = make_plan(file, *found, output, upload=options["upload"])
        target = _target(plan, file, tools)
        if not dry_run:
            convert(plan, file, told, tools, Shown(progress, plan.name))
            if target is not None:
                _upload(plan, target, tools)
    if dry_run:
        _show(console, plan, file, told, tools)
        return
    console.result("weights:")
    console.result(f"  source: {target.uri if target else f'file://{plan.output}'}")


def _look(file: "SpecFile", tools: "Tools", *, beside: bool) -> "tuple[Found, Found | None]":
    """Model and adapter at their sources; with `beside` a config.json beside the spec stands in where these are out of reach."""
    from ..convert.plan import conversion_of
    from ..convert.source import lock_tokenizer, look_at_adapter, look_at_model, look_beside
    from ..errors import OfflineError, TransferError
    from ..lock.check import check

    asked = conversion_of(file)
    check(file)
    tools.stage(f"look at {asked.source}")
    try:
        found = look_at_model(file, asked, tools), look_at_adapter(file, asked, tools)
        if beside:  # who converts asks for it himself
            lock_tokenizer(file, tools)
        return found
    except (OfflineError, TransferError) as error:  # not one that says no
        known = look_beside(file, asked) if beside else None
        if known is None:
            raise
        tools.say(f"planned from config.json beside the spec, without a list of files: {error.problems[0].what}")
        return known


def _target(plan: "ConvertPlan", file: "SpecFile", tools: "Tools") -> "Destination | None":
    """Where the engine is uploaded to. Nothing is asked yet. Raises OutputError for what cannot be written."""
    from ..errors import OutputError
    from ..upload.run import UploadOptions, open_destination

    if plan.upload is None or file.spec.weights is None:
        return None
    revision = file.spec.weights.revision or ""
    if _COMMIT.fullmatch(revision):
        mend = "remove it, or name a branch; the lock pins the commit"
        what = "`weights.revision` is a commit, and an upload makes another one"
        raise OutputError(what, where=file.where("weights", "revision"), mend=mend)
    address = plan.upload
    if address.startswith("file://"):  # a relative one starts at the spec's folder
        address = f"file://{file.folder / address.removeprefix('file://')}"
    return open_destination(address, UploadOptions(revision=revision), tools.store)


def _upload(plan: "ConvertPlan", target: "Destination", tools: "Tools") -> None:
    from ..upload.run import plan_upload, run_plan

    tools.say(f"if the upload breaks off: packager upload {shlex.quote(str(plan.output))} {shlex.quote(target.uri)}")
    tools.stage(f"upload to {target.uri}")
    run_plan(plan_upload(plan.output, target, tools.store, tools.on_bytes), target, tools.store, tools.on_bytes)


def _show(console: Console, plan: "ConvertPlan", file: "SpecFile", told: "Told", tools: "Tools") -> None:
    """Every step, with the arguments of its calls."""
    from ..convert.docker import docker_command
    from ..environ import WEIGHTS_MIRRORS
    from ..weights.mirrors import parse_mirrors

    say, build, needs = console.result, plan.build, plan.needs
    say(f"{plan.name}: TensorRT-LLM {plan.version} on {plan.gpus} {plan.gpu} (compute capability {plan.capability})")
    say(f"fetch     {_found(plan.model)}")
    if plan.adapter is not None:
        say(f"merge     {_found(plan.adapter)}")
        say("          PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload(safe_merge=True)")
    calls = build.calls("MODEL", "WORKSPACE")
    say(f"build     {_call('LLM', calls.pop('LLM'))}")
    for name, words in calls.items():
        say(f"          {_KEYWORDS[name]}={_call(name, words)}")
    tokenizer = "the model's own tokenizer" if plan.tokenizer else "no tokenizer (`weights.tokenizer` has it)"
    say(f"save      {plan.output}: rank0.engine and so on, config.json, {tokenizer}")
    say(f"describe  {plan.output / 'engine.json'}")
    if plan.upload is not None:
        say(f"upload    {plan.upload}")
    memory = f"{size(needs.host)} of memory, {size(needs.gpu)} of {'each' if plan.gpus > 1 else 'the'} GPU"
    if plan.model.listed:
        say(f"needs     about {memory}, {size(needs.disk)} of disk beside the store ({size(plan.model.size)})")
    mirrors = parse_mirrors(WEIGHTS_MIRRORS.get())
    say(f"run       {shlex.join(docker_command(plan, file, tools.store.root, told, mirrors))}")


def _found(found: "Found") -> str:
    at = f" at {found.revision}" if found.revision else ""
    files = f"{len(found.files)} files ({size(found.size)})" if found.listed else "its files are not listed"
    return f"{found.address}{at}: {files}"


def _call(name: str, words: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in words.items())})"
