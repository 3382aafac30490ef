"""What an engine says that it can do beside text holds; what it does not say is refused with the parameter's name."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import pytest_asyncio
from cases import CASES, CONTEXT, SLOTS, Case, make_weights
from fakes.engines import make_setup

from packager.errors import RequestError
from packager.runtime.engine import (
    SAMPLING,
    Delta,
    Engine,
    Features,
    GenerationRequest,
    Message,
    OutputForm,
    OutputKind,
    SamplingParams,
    Tools,
)
from packager.runtime.engines import open_engine
from packager.runtime.features import refuse_unsupported

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "one two three"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "cold": {"type": "boolean"}},
    "required": ["city", "cold"],
    "additionalProperties": False,
}
FUNCTIONS = (
    {"type": "function", "function": {"name": "report", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}},
)
SEEDS = range(3)
TABLE = Path(__file__).resolve().parents[2] / "docs/reference/openai.md"


class ToolCase(Case):
    """llama.cpp with a chat template that knows tools."""

    id = "llama_cpp-tools"

    def open(self, root: Path, *, slow: bool = False) -> Engine:
        from fakes.scripted import TOOL_TEMPLATE

        weights = make_weights(self.weights, self.kind, root)
        setup = make_setup(weights, SLOTS, **self.options | (self.slow if slow else {}))
        return open_engine(self.kind, replace(setup, chat_template=TOOL_TEMPLATE))


HERE = [case for case in CASES if case.whole]
if any(case.kind == "llama_cpp" for case in HERE):
    HERE.append(ToolCase("llama_cpp", "xllamacpp", {"context_length": 2 * CONTEXT, "threads": 1}, weights="hello"))


@pytest.fixture(scope="module", params=HERE, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(case: Case, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Engine, Features]]:
    adapter = case.open(tmp_path_factory.mktemp("models"))
    facts = await adapter.start()
    yield adapter, facts.features
    await adapter.stop()


async def ask(
    started: tuple[Engine, Features], seed: int = 1, *, chat: bool = False, tools: Tools | None = None, **more: Any
) -> list[Delta]:
    """The answer to a request that passed the supervisor's door."""
    engine, features = started
    output = more.pop("output", None)
    seeded = {"seed": seed} if "seed" in features.sampling else {}
    sampling = SamplingParams(**{"max_tokens": 150, "temperature": 1} | seeded | more)
    messages = (Message("user", PROMPT),) if chat else None
    request = GenerationRequest("r", None if chat else PROMPT, messages, sampling, output, tools)
    refuse_unsupported(request, features, "the engine")
    return [delta async for delta in engine.stream(request)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def refused(started: tuple[Engine, Features], parameter: str, **more: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await ask(started, **more)
    assert caught.value.problems[0].where == parameter


async def test_a_json_object(started: tuple[Engine, Features]) -> None:
    form = OutputForm("json_object")
    if "json_object" not in started[1].outputs:
        await refused(started, "response_format", output=form)
        return
    for seed in range(8):
        deltas = await ask(started, seed, output=form)
        text = text_of(deltas)
        assert text.lstrip().startswith("{")  # a random model may go on to the limit, but not begin otherwise
        if deltas[-1].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


async def test_a_json_schema(started: tuple[Engine, Features]) -> None:
    form = OutputForm("json_schema", json.dumps(SCHEMA))
    if "json_schema" not in started[1].outputs:
        await refused(started, "response_format", output=form)
        return
    for seed in SEEDS:
        for chat in (False, True):
            deltas = await ask(started, seed, chat=chat, output=form)
            value = json.loads(text_of(deltas))
            assert deltas[-1].finish_reason == "stop"
            assert value.keys() == {"city", "cold"}
            assert value["city"] in ("Paris", "Rome")
            assert isinstance(value["cold"], bool)


async def test_a_json_schema_that_cannot_be_kept_is_refused_before_the_first_token(
    started: tuple[Engine, Features],
) -> None:
    """Not a schema at all: whatever an engine supports of the language, it must not answer as if it kept this."""
    if "json_schema" in started[1].outputs:
        await refused(started, "response_format", output=OutputForm("json_schema", '{"type": "warp"}'))
    assert (await ask(started, max_tokens=2))[-1].usage.completion_tokens == 2


async def test_a_grammar(started: tuple[Engine, Features]) -> None:
    form = OutputForm("grammar", 'root ::= "yes" | "no" "!"{2}')
    if "grammar" not in started[1].outputs:
        await refused(started, "response_format", output=form)
        return
    for seed in SEEDS:
        assert text_of(await ask(started, seed, output=form)) in ("yes", "no!!")
    await refused(started, "response_format", output=OutputForm("grammar", "root ::= (("))


async def test_a_regular_expression(started: tuple[Engine, Features]) -> None:
    form = OutputForm("regex", "(yes|no)!{2}")
    if "regex" not in started[1].outputs:
        await refused(started, "response_format", output=form)
        return
    for seed in SEEDS:
        assert text_of(await ask(started, seed, output=form)) in ("yes!!", "no!!")
    await refused(started, "response_format", output=OutputForm("regex", "(yes"))


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "report"}}], ids=["any", "one"]
)
async def test_a_tool_that_must_be_called(started: tuple[Engine, Features], choice: Any) -> None:
    tools = Tools(FUNCTIONS, choice)
    if not started[1].tools:
        await refused(started, "tools", chat=True, tools=tools)
        return
    for seed in SEEDS:
        deltas = await ask(started, seed, chat=True, tools=tools)
        first, *others = [piece for delta in deltas for piece in delta.tool_calls]
        assert deltas[-1].finish_reason == "tool_calls"
        assert text_of(deltas) == ""
        assert first["id"]
        assert first["function"]["name"] in ("report", "now") if choice == "required" else ("report",)
        arguments = "".join(piece["function"].get("arguments", "") for piece in (first, *others))
        assert isinstance(json.loads(arguments), dict)


async def test_log_probabilities(started: tuple[Engine, Features]) -> None:
    if "logprobs" not in started[1].sampling:
        await refused(started, "logprobs", logprobs=0)
        return
    most = min(2, started[1].logprobs)
    deltas = await ask(started, logprobs=most, max_tokens=3, temperature=0)
    tokens = [one for delta in deltas for one in delta.logprobs]
    assert b"".join(one.token.raw for one in tokens).decode(errors="replace") == text_of(deltas)
    assert all(one.token.logprob <= 0 for one in tokens)
    assert all(len(one.top) <= most for one in tokens)
    assert all(one.token.logprob == max(other.logprob for other in one.top) for one in tokens if one.top)
    bare = [one for delta in await ask(started, logprobs=0, max_tokens=3, temperature=0) for one in delta.logprobs]
    assert [one.top for one in bare] == [()] * len(tokens)
    await refused(started, "logprobs", logprobs=started[1].logprobs + 1)


async def test_going_on_whatever_the_model_says(started: tuple[Engine, Features]) -> None:
    if "ignore_eos" not in started[1].sampling:
        await refused(started, "ignore_eos", ignore_eos=True)
        return
    last = (await ask(started, ignore_eos=True, max_tokens=CONTEXT // 2))[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == ("length", CONTEXT // 2)


async def test_an_adapter_that_is_not_there(started: tuple[Engine, Features]) -> None:
    engine, features = started
    request = GenerationRequest("r", prompt=PROMPT, adapter="nobody")
    with pytest.raises(RequestError) as caught:
        refuse_unsupported(request, features, "the engine")
    assert caught.value.problems[0].where == "model"
    assert engine.health().alive


def _says_yes(cell: str, name: str, case: Case) -> bool:
    """Whether the table's cell grants this parameter: `yes`, perhaps without some of its row, or with one backend."""
    if cell.startswith("yes"):
        return f"`{name}`" not in cell
    return f"`backend: {case.options.get('backend')}`" in cell


async def test_the_documentation_says_what_it_can(started: tuple[Engine, Features], case: Case) -> None:
    features = started[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    column = rows[0].index(f"`{case.kind}`")
    said = {name: row[column] for row in rows[2:] for name in re.findall(r"`(\w+)`", row[0])}
    for name in SAMPLING:
        assert _says_yes(said[name], name, case) == (name in features.sampling), name
    for kind in get_args(OutputKind):
        assert said[kind] == ("yes" if kind in features.outputs else "no"), kind
    assert features.tools == (said["tools"] == "yes" or (case.id == "llama_cpp-tools" and said["tools"] != "no"))
