"""Triton's HTTP interface: the generate extension by hand, the rest through the real `tritonclient`."""

import json
import socket
import struct

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from fakes.serving import thread_server, wait_until
from tritonclient.utils import InferenceServerException

WORDS = "one two three four"
PATH = "/v2/models/hello"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with thread_server(tmp_path_factory.mktemp("server")) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def generate(server, body, path="/generate"):
    return httpx.post(server.url + PATH + path, json=body, timeout=60)


def read_events(text):
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_generate(server, version):
    answer = generate(server, {"text_input": WORDS, "exclude_input_in_output": True}, version + "/generate")
    assert answer.json() == {"model_name": "hello", "model_version": "1", "text_output": WORDS}


def test_a_whole_answer_begins_with_the_prompt_as_vllms_backend_has_it(server):
    assert generate(server, {"text_input": WORDS}).json()["text_output"] == WORDS + WORDS


@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": 2},
        {"parameters": {"max_tokens": 2}},
        {"parameters": {"max_tokens": "2", "temperature": "0.5", "ignore_eos": "true"}},
        {"sampling_parameters": '{"max_tokens": "2"}', "parameters": {"temperature": 0}},
        {"sampling_parameters": ['{"max_tokens": 2, "stop": ["nine"]}']},
        {"stop": " three"},
    ],
)
def test_where_parameters_may_stand(server, asked):
    body = {"text_input": [WORDS], "exclude_input_in_output": [True]} | asked
    assert generate(server, body).json()["text_output"] == "one two"


def test_more_outputs(server):
    flags = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
    body = {"text_input": WORDS, "max_tokens": 1, "id": "42"} | flags
    more = {"finish_reason": "length", "num_input_tokens": 4, "num_output_tokens": 1}
    whole = generate(server, body | {"exclude_input_in_output": True}).json()
    head = {"id": "42", "model_name": "hello", "model_version": "1"}
    assert whole == head | {"text_output": "one"} | more
    events = read_events(generate(server, body, "/generate_stream").text)
    assert events == [head | {"text_output": "one"}, head | {"text_output": ""} | more]


@pytest.mark.parametrize("stream", [{}, {"stream": True}, {"parameters": {"stream": True}}])
def test_generate_stream(server, stream):
    answer = generate(server, {"text_input": WORDS} | stream, "/generate_stream")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = read_events(answer.text)
    assert [event["text_output"] for event in events] == ["one", " two", " three", " four"]
    assert events[0] == {"model_name": "hello", "model_version": "1", "text_output": "one"}


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/generate", {}, "text_input is missing"),
        ("/generate", {"text_input": ""}, "text_input must not be empty"),
        ("/generate", {"text_input": ["a", "b"]}, "text_input must be a string"),
        ("/generate", {"text_input": "a", "stream": True}, "POST to generate_stream"),
        ("/generate_stream", {"text_input": "a", "stream": False}, "POST to generate"),
        ("/generate_stream", {"text_input": "a", "exclude_input_in_output": False}, "exclude_input_in_output"),
        ("/generate", {"text_input": "a", "bad_words": "b"}, "bad_words is not supported"),
        ("/generate", {"text_input": "a", "return_logprobs": True}, "return_logprobs is not supported"),
        ("/generate", {"text_input": "a", "return_finish_reason": [None]}, "must be true or false"),
        ("/generate", {"text_input": "a", "parameters": {"n": 2}}, "n is not supported"),
        ("/generate", {"text_input": "a", "parameters": 1}, "parameters must be a JSON object"),
        ("/generate", {"text_input": "a", "sampling_parameters": "{"}, "sampling_parameters is not JSON"),
        ("/generate", {"text_input": "a", "sampling_parameters": ""}, "sampling_parameters is empty"),
        ("/generate", {"text_input": "a", "sampling_parameters": '{"seed": NaN}'}, "sampling_parameters is not strict"),
        ("/generate", {"text_input": "a", "sampling_parameters": "[" * 65 + "]" * 65}, "sampling_parameters is nested"),
        ("/generate", {"text_input": "a", "sampling_parameters": "[]"}, "sampling_parameters must be a JSON object"),
        ("/generate", {"text_input": "a", "sampling_parameters": {}}, "sampling_parameters must be a JSON object"),
        ("/generate", {"text_input": "a", "seed": 1, "parameters": {"seed": 1}}, "seed is given twice"),
        ("/generate", {"text_input": "a", "temperature": "hot"}, "temperature must be a number"),
        ("/generate", {"text_input": "a", "temperature": "1e999"}, "temperature must be a number"),
        ("/generate", {"text_input": "a", "id": "\x00"}, "id must be"),
        ("/generate", {"text_input": "w " * 5000}, "the prompt has 5000 tokens"),
        ("/generate", [], "the body must be a JSON object"),
        ("/generate_stream", [], "the body must be a JSON object"),
        ("/infer", [], "must be a JSON object"),
    ],
)
def test_errors_in_tritons_shape(server, path, body, what):
    answer = generate(server, body, path)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert what in answer.json()["error"]


def test_an_unknown_model(server):
    answer = httpx.post(server.url + "/v2/models/other/generate", json={"text_input": "a"}, timeout=60)
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)


def test_a_stream_that_fails_is_told_and_does_not_end_cleanly(tmp_path):
    with thread_server(tmp_path, fail_after=2) as server:
        body = json.dumps({"text_input": WORDS}).encode()
        head = f"POST {PATH}/generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.wait_ready().port)) as connection:
            connection.sendall(head.encode() + body)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b'"text_output":" two"}\n\n' in received
    assert b'data: {"error":"the engine failed; the answer is not complete"}\n\n' in received
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
def test_leaving_frees_the_slot(tmp_path, path):
    with thread_server(tmp_path, delay_ms=60_000) as server:
        metrics = server.wait_ready().supervisor.metrics
        body = json.dumps({"text_input": "a"}).encode()
        head = f"POST {PATH}/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: metrics.running == 1, "it runs")
        wait_until(lambda: metrics.running == 0, "the slot is free")
        wait_until(lambda: metrics.outcomes["abort"] == 1, "it is counted")


def test_the_client_looks_around(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("hello")
    assert client.is_model_ready("hello", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("hello", "2")
    assert client.get_server_metadata()["name"] == "packager"
    metadata = client.get_model_metadata("hello")
    assert (metadata["versions"], metadata["platform"]) == (["1"], "echo")
    assert {"name": "text_input", "datatype": "BYTES", "shape": [1]} in metadata["inputs"]
    config = client.get_model_config("hello", "1")
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("hello", "echo", 0)
    assert [one["name"] for one in config["input"] if not one["optional"]] == ["text_input"]
    with pytest.raises(InferenceServerException, match="there is no"):
        client.get_model_metadata("other")


def tensor(name, value, *, binary=True):
    kind, dtype = ("BOOL", bool) if isinstance(value, bool) else ("BYTES", object)
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value.encode() if kind == "BYTES" else value], dtype=dtype), binary)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_infer(client, binary):
    inputs = [
        tensor("text_input", "één twee drie", binary=binary),
        tensor("exclude_input_in_output", True, binary=binary),
        tensor("sampling_parameters", '{"max_tokens": 2}', binary=binary),
        tensor("return_finish_reason", True, binary=not binary),
    ]
    names = ("text_output", "finish_reason", "num_input_tokens")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("hello", inputs, outputs=outputs, request_id="7")
    text, reason, count = (result.as_numpy(name)[0] for name in names)
    assert (text if isinstance(text, str) else text.decode()) == "één twee"
    assert (reason if isinstance(reason, str) else reason.decode()) == "length"
    assert count == 3
    assert result.get_response()["id"] == "7"
    assert result.get_output("num_output_tokens") is None


def test_infer_without_naming_outputs(client):
    """The client then asks for all of them, in binary."""
    result = client.infer("hello", [tensor("text_input", "a b")], parameters={"max_tokens": 1})
    assert result.as_numpy("text_output")[0] == b"a ba"
    assert [output["name"] for output in result.get_response()["outputs"]] == ["text_output"]


def test_infer_with_an_answer_of_no_text(client):
    inputs = [tensor("text_input", "a b"), tensor("exclude_input_in_output", True)]
    result = client.infer("hello", inputs, parameters={"stop": "a"})
    assert result.as_numpy("text_output")[0] == b""


@pytest.mark.parametrize(
    ("inputs", "options", "what"),
    [
        ([], {}, "text_input is missing"),
        ([tensor("text_input", "a"), tensor("image", "x")], {}, r"inputs\[1\].name must be one of"),
        ([tensor("text_input", "a"), tensor("text_input", "a")], {}, "each once"),
        ([tensor("text_input", "a"), tensor("stream", True)], {}, "POST to generate_stream"),
        ([tensor("text_input", True)], {}, "datatype must be BYTES"),
        ([tensor("text_input", "a")], {"outputs": [triton.InferRequestedOutput("logprobs")]}, "must be one of"),
        (
            [tensor("text_input", "a")],
            {"outputs": [triton.InferRequestedOutput("text_output", class_count=2)]},
            "class",
        ),
        ([tensor("text_input", "a")], {"timeout": 5}, "timeout is not supported"),
        ([tensor("text_input", "a")], {"request_compression_algorithm": "gzip"}, "the body is compressed"),
    ],
)
def test_what_infer_refuses(client, inputs, options, what):
    with pytest.raises(InferenceServerException, match=what):
        client.infer("hello", inputs, **options)


TEXT = struct.pack("<I", 1) + b"a"


@pytest.mark.parametrize(
    ("change", "binary", "what"),
    [
        ({"parameters": {"binary_data_size": 5}}, TEXT, None),
        ({"data": ["a"]}, b"", None),
        ({"data": "a"}, b"", "inputs[0].data must be a list"),
        ({"data": ["a", "b"]}, b"", "must have one element"),
        ({"data": [["a", "b"]]}, b"", "text_input must be a string"),
        ({"data": ["a"], "parameters": {"binary_data_size": 5}}, TEXT, "cannot come with binary_data_size"),
        ({"data": ["a"], "shape": [2]}, b"", "shape must be [1]"),
        ({"data": ["a"], "shape": "1"}, b"", "shape must be a list"),
        ({"data": ["a"], "shape": None}, b"", "shape must be a list"),
        ({}, b"", "data must be a list"),
        ({"parameters": {"binary_data_size": 6}}, TEXT, "binary_data_size must be an integer from 0 to 5"),
        ({"parameters": {"binary_data_size": 4}}, TEXT, "not one element of BYTES"),
        ({"parameters": {"binary_data_size": 3}}, TEXT, "not one element of BYTES"),
        ({"parameters": {"binary_data_size": 5}}, TEXT + b"x", "more binary data than its inputs name"),
        ({"parameters": {"binary_data_size": 5}}, TEXT[:4] + b"\xff", "not UTF-8"),
        ({"parameters": {"shared_memory_region": "x"}}, b"", "shared_memory_region is not supported"),
    ],
)
def test_tensors_byte_by_byte(server, change, binary, what):
    one = {"name": "text_input", "datatype": "BYTES", "shape": [1]} | change
    head = json.dumps({"inputs": [one]}).encode()
    size = {"inference-header-content-length": str(len(head))}
    answer = httpx.post(server.url + PATH + "/infer", content=head + binary, headers=size, timeout=60)
    assert answer.status_code == (200 if what is None else 400)
    assert what is None or what in answer.json()["error"]


@pytest.mark.parametrize("size", ["", "-1", "x", "3", "99999999999999999999"])
def test_the_size_of_the_json(server, size):
    headers = {"inference-header-content-length": size}
    assert httpx.post(server.url + PATH + "/infer", content=b"{}", headers=headers, timeout=60).status_code == 400
