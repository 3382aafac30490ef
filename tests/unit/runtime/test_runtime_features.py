"""What an engine lacks is refused with the parameter's name."""

from dataclasses import replace

import pytest

from packager.errors import RequestError
from packager.runtime.engine import SAMPLING, Features, GenerationRequest, Message, OutputForm, SamplingParams, Tools
from packager.runtime.features import refuse_unsupported

NOW = ({"type": "function", "function": {"name": "now", "parameters": {}}},)
EVERYTHING = Features(SAMPLING, 20, frozenset({"json_object", "grammar"}), tools=True, chat=True, adapters=("poet",))
NOTHING = Features(frozenset({"max_tokens", "stop"}), chat=False)
ASKS = [
    ("logprobs", {"sampling": SamplingParams(logprobs=0)}),
    ("temperature", {"sampling": SamplingParams(temperature=0.5)}),
    ("seed", {"sampling": SamplingParams(seed=0)}),
    ("ignore_eos", {"sampling": SamplingParams(ignore_eos=True)}),
    ("messages", {"prompt": None, "messages": (Message("user", "a"),)}),
    ("response_format", {"output": OutputForm("json_object")}),
    ("tools", {"tools": Tools(NOW)}),
    ("model", {"adapter": "poet"}),
]


def refused(features: Features, **fields) -> str:
    request = replace(GenerationRequest("r", prompt="a"), **fields)
    with pytest.raises(RequestError) as caught:
        refuse_unsupported(request, features, "warp")
    return caught.value.problems[0].where


@pytest.mark.parametrize(("where", "asked"), ASKS)
def test_what_an_engine_has_passes_and_what_it_has_not_is_named(where, asked):
    refuse_unsupported(replace(GenerationRequest("r", prompt="a"), **asked), EVERYTHING, "warp")
    assert refused(NOTHING, **asked) == where


def test_what_asks_for_nothing_passes():
    neutral = SamplingParams(5, 1.0, 1.0, 0, 0.0, None, 0.0, 0.0, 1.0, ("x",))
    refuse_unsupported(GenerationRequest("r", prompt="a", sampling=neutral), NOTHING, "warp")


def test_more_than_an_engine_has_of_something():
    assert refused(EVERYTHING, sampling=SamplingParams(logprobs=21)) == "logprobs"
    assert refused(EVERYTHING, output=OutputForm("regex", "a")) == "response_format"
    assert refused(EVERYTHING, adapter="painter") == "model"


@pytest.mark.parametrize("form", [{"output": OutputForm("json_object")}, {"tools": Tools(NOW, "required")}])
def test_a_form_has_an_end(form):
    assert refused(EVERYTHING, sampling=SamplingParams(ignore_eos=True), **form) == "ignore_eos"
    refuse_unsupported(
        GenerationRequest("r", prompt="a", sampling=SamplingParams(ignore_eos=True), tools=Tools(NOW)), EVERYTHING, ""
    )
