import pytest

from packager.errors import RequestError
from packager.runtime.engine import GenerationRequest, Message, OutputForm, SamplingParams
from packager.runtime.inputs import parse_inputs


def test_everything_given_arrives():
    request, stream = parse_inputs(
        {
            "prompt": "p",
            "max_tokens": 5,
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "seed": 7,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repetition_penalty": 1.1,
            "stop": "x",
            "ignore_eos": True,
            "response_format": {"type": "json_object"},
            "adapter": "poet",
            "stream": True,
        },
        "id",
    )
    sampling = SamplingParams(5, 0.0, 0.5, 3, 0.1, 7, 1.0, -1.0, 1.1, ("x",), ignore_eos=True)
    expected = GenerationRequest("id", "p", sampling=sampling, output=OutputForm("json_object"), adapter="poet")
    assert request == expected
    assert stream is True


def test_null_is_not_given():
    request, stream = parse_inputs({"prompt": "p", "messages": None, "stop": None, "stream": None, "other": None})
    assert request.sampling == SamplingParams()
    assert stream is False


def test_messages():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request, _ = parse_inputs(
        {"messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]}
    )
    assert request.messages == (Message("system", "be brief"), Message("user", "ab"))


def test_messages_of_tools():
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    bare = call | {"function": {"name": "now", "arguments": ""}}
    request, _ = parse_inputs(
        {
            "messages": [
                {"role": "user", "content": "what time is it?"},
                {"role": "assistant", "content": None, "tool_calls": [call, bare], "refusal": None, "annotations": []},
                {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            ]
        }
    )
    without = call | {"function": {"name": "now", "arguments": "{}"}}
    assert request.messages[1:] == (Message("assistant", "", (call, without)), Message("tool", "noon", (), "c1"))
    assert request.messages[1].plain() == {"role": "assistant", "content": "", "tool_calls": [call, without]}


def test_names_reach_the_chat_template():
    turns = [
        {"role": "user", "content": "a", "name": "ada"},
        {"role": "tool", "content": "4", "name": "add", "tool_call_id": "c1"},
    ]
    request, _ = parse_inputs({"messages": turns})
    assert [one.plain() for one in request.messages] == turns


@pytest.mark.parametrize(("inputs", "what"), [([], "the body"), ({"messages": ["hi"]}, "messages[0]")])
def test_what_is_no_object_is_named(inputs, what):
    with pytest.raises(RequestError) as caught:
        parse_inputs(inputs)
    assert caught.value.problems[0].what == f"{what} must be a JSON object"


CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def calling(**changed):
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL | changed]}]}


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ([], ""),
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a", "name": ""}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a", "nam": "x"}]}, "messages[0].nam"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "a", "temperature": 2.1}, "temperature"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature"),
        ({"prompt": "a", "temperature": "1"}, "temperature"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
        ({"prompt": "a", "stop": 1}, "stop"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": "a", "best_of": 1}, "best_of"),
        ({"prompt": "a", "logprobs": 1}, "logprobs"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "tool_call_id": "c1"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": {}}]}, "messages[0].tool_calls"),
        (calling(id=None), "messages[0].tool_calls[0].id"),
        (calling(type="custom"), "messages[0].tool_calls[0].type"),
        (calling(index=0), "messages[0].tool_calls[0].index"),
        (calling(function=None), "messages[0].tool_calls[0].function"),
        (calling(function={"arguments": "{}"}), "messages[0].tool_calls[0].function.name"),
        (calling(function={"name": "now", "arguments": {}}), "messages[0].tool_calls[0].function.arguments"),
        (calling(function={"name": "now", "arguments": "[]"}), "messages[0].tool_calls[0].function.arguments"),
        (calling(function={"name": "now", "arguments": "{"}), "messages[0].tool_calls[0].function.arguments"),
        (
            calling(function={"name": "now", "arguments": "[" * 99999}),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_is_off_is_named(inputs, where):
    with pytest.raises(RequestError) as caught:
        parse_inputs(inputs)
    assert caught.value.problems[0].where == where
