"""Packages for Triton, served by the real tritonserver (2.51) with its Python backend, asked by the real tritonclient."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as over_http
from fakes.gguf import write_tiny_gguf
from fakes.serving import wait_until
from fakes.tritonserver import TritonServer, read_events, triton_package, with_numpy_1
from tritonclient.utils import InferenceServerException

from packager.runtime.model import load

WORDS = "one two three four"
ROOT = Path(__file__).parents[2]
ENDLESS = json.dumps({"ignore_eos": True})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The echo engine, four requests at once and none that waits; one without an end takes longer than a test waits."""
    package = triton_package(tmp_path_factory.mktemp("triton") / "package", options={"delay_ms": 40}, max_queue=0)
    with TritonServer(package) as running:
        yield running.wait_ready()


def generate(server: TritonServer, body: Any) -> httpx.Response:
    return httpx.post(f"{server.model}/generate", json=body, timeout=120)


def generate_stream(server: TritonServer, body: Any) -> list[Any]:
    with httpx.stream("POST", f"{server.model}/generate_stream", json=body, timeout=120) as answer:
        return list(read_events(answer.iter_lines()))


def tensor(name: str, value: str | bytes | bool) -> triton.InferInput:
    kind, dtype = ("BOOL", np.bool_) if isinstance(value, bool) else ("BYTES", np.object_)
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype=dtype))
    return made


class Stream:
    """A gRPC stream of one client, whose answers are taken one by one."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self._answers.put((result, error)))

    def ask(self, **inputs: str | bytes | bool) -> None:
        self.ask_with({}, **inputs)

    def ask_with(self, options: Mapping[str, Any], **inputs: str | bytes | bool) -> None:
        """With options of tritonclient's."""
        tensors = [tensor(name, value) for name, value in inputs.items()]
        self._client.async_stream_infer("hello", tensors, enable_empty_final_response=True, **options)

    def answer(self) -> Any:
        """The next response. Raises InferenceServerException."""
        result, error = self._answers.get(timeout=120)
        if error is not None:
            raise error
        return result

    def text(self) -> str:
        """The next response's text."""
        return str(self.answer().as_numpy("text_output")[0].decode())

    def texts(self) -> Iterator[str]:
        """Pieces of the answer until its last response."""
        final = False
        while not final:
            result = self.answer()
            found = result.as_numpy("text_output")
            final = result.get_response().parameters["triton_final_response"].bool_param
            if found is not None:
                yield found[0].decode()


@contextmanager
def grpc_stream(server: TritonServer, *, cancel: bool = False) -> Iterator[Stream]:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
    try:
        yield Stream(client)
    finally:
        client.stop_stream(cancel_requests=cancel)
        client.close()


def test_what_it_says_of_itself(server):
    client = over_http.InferenceServerClient(f"127.0.0.1:{server.http}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("hello")
    config = client.get_model_config("hello")
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["instance_group"][0]["kind"] == "KIND_MODEL"
    assert [one["name"] for one in config["input"] if not one["optional"]] == ["text_input"]
    client.close()
    assert "nv_inference_request_success" in httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=60).text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, WORDS + WORDS),
        ({"exclude_input_in_output": True}, WORDS),
        ({"exclude_input_in_output": True, "sampling_parameters": '{"max_tokens": "2"}'}, "one two"),
        ({"exclude_input_in_output": True, "parameters": {"stop": "three"}}, "one two "),
        ({"exclude_input_in_output": True, "max_tokens": 1, "stream": False}, "one"),
    ],
)
def test_generate(server, asked, text):
    answer = generate(server, {"text_input": WORDS, "id": "42"} | asked)
    assert answer.json() == {"id": "42", "model_name": "hello", "model_version": "1", "text_output": text}


def test_a_text_larger_than_the_memory_that_is_shared_at_first(server):
    text = "w" * 3_000_000
    assert generate(server, {"text_input": text, "exclude_input_in_output": True}).json()["text_output"] == text


def test_more_outputs(server):
    flags = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
    body = {"text_input": WORDS, "max_tokens": 2, "exclude_input_in_output": True} | flags
    more = {"finish_reason": "length", "num_input_tokens": 4, "num_output_tokens": 2}
    head = {"model_name": "hello", "model_version": "1"}
    assert generate(server, body).json() == head | {"text_output": "one two"} | more
    events = generate_stream(server, body | {"stream": True})
    assert "".join(event["text_output"] for event in events) == "one two"
    assert events[-1].items() >= more.items()
    assert not more.keys() & events[0].keys()


def test_outputs_that_a_client_names(server):
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put(error or result))
    outputs = [triton.InferRequestedOutput("num_output_tokens")]
    client.async_stream_infer("hello", [tensor("text_input", WORDS)], outputs=outputs)
    assert results.get(timeout=120).as_numpy("num_output_tokens").tolist() == [4]
    client.stop_stream()
    client.close()


def test_generate_stream(server):
    events = generate_stream(server, {"text_input": WORDS, "stream": True, "id": "7"})
    assert "".join(event["text_output"] for event in events) == WORDS
    assert len(events) > 1
    assert events[0] == {"id": "7", "model_name": "hello", "model_version": "1", "text_output": "one"}


def test_a_stream_over_grpc(server):
    with grpc_stream(server) as stream:
        stream.ask(text_input=WORDS, stream=True)
        texts = list(stream.texts())
        assert "".join(texts) == WORDS
        assert texts[0] == "one"
        stream.ask(text_input="ünï 😀", exclude_input_in_output=True)
        assert "".join(stream.texts()) == "ünï 😀"


REFUSED = [
    ({"bad_words": "x"}, "bad_words is not supported"),
    ({"sampling_parameters": '{"best_of": 2}'}, "best_of is not supported"),
    (
        {"sampling_parameters": '{"lora_name": "other"}'},
        "lora_name names no adapter of this package, which has none: other",
    ),
    ({"sampling_parameters": "{"}, "sampling_parameters is not JSON"),
    ({"parameters": {"temperature": "hot"}}, "temperature must be a number"),
    ({"text_input": ""}, "text_input must not be empty"),
    ({"text_input": "w " * 5000}, "the prompt has 5000 tokens"),
    ({"stream": True, "exclude_input_in_output": False}, "exclude_input_in_output cannot be false in a stream"),
]


@pytest.mark.parametrize(("asked", "what"), REFUSED)
def test_what_is_refused_by_name(server, asked, what):
    answer = generate(server, {"text_input": "a"} | asked)
    assert answer.status_code == 400
    assert what in answer.json()["error"]


def test_an_error_over_grpc_ends_one_request_only(server):
    with grpc_stream(server) as stream:
        stream.ask(text_input="a", stream=True, sampling_parameters='{"beam_width": 2}')
        with pytest.raises(InferenceServerException, match="beam_width is not supported"):
            stream.answer()
        stream.ask(text_input=WORDS)
        assert "".join(stream.texts()) == WORDS + WORDS


@pytest.mark.parametrize(
    ("options", "what"),
    [({"timeout": 5}, "timeout"), ({"sequence_id": 5}, "sequence_id"), ({"parameters": {"id": "b"}}, "id")],
)
def test_what_nobody_would_heed(server, options, what):
    with grpc_stream(server) as stream:
        stream.ask_with({"request_id": "a"} | options, text_input="a")
        with pytest.raises(InferenceServerException, match=f"{what} is not supported"):
            stream.answer()


def test_text_that_is_not_utf_8(server):
    with grpc_stream(server) as stream:
        stream.ask(text_input=b"\xff")
        with pytest.raises(InferenceServerException, match="text_input is not UTF-8"):
            stream.answer()


class TestSlots:
    """`server` runs four requests at once; what it does not run it refuses."""

    def test_requests_run_in_parallel(self, server):
        streams = [grpc_stream(server, cancel=True) for _ in range(4)]
        opened = [one.__enter__() for one in streams]
        for stream in opened:
            stream.ask(text_input="go", stream=True, sampling_parameters=ENDLESS)
        assert [stream.text() for stream in opened] == ["go"] * 4  # none has ended, all have begun
        refused = generate(server, {"text_input": "a"})
        assert "4 requests run and 0 wait: no more are taken now" in refused.json()["error"]
        for one in streams:
            one.__exit__(None, None, None)
        wait_until(lambda: generate(server, {"text_input": "a"}).status_code == 200, "a slot is free")

    @pytest.mark.parametrize("way", ["http", "grpc"])
    def test_leaving_frees_the_slot(self, server, way):
        leave = {"http": _leave_http, "grpc": _leave_grpc}[way]
        for _ in range(6):  # more than there are slots
            wait_until(
                lambda: "no more are taken now" not in (said := leave(server)) and "go" in said, "a slot is free"
            )


def test_leaving_before_there_is_an_answer(tmp_path):
    """One request runs and one waits for it; of both nothing has come, and nothing would for minutes."""
    package = triton_package(tmp_path / "package", options={"delay_ms": 100}, max_concurrency=1, max_queue=1)
    with TritonServer(package) as server:
        with grpc_stream(server.wait_ready(), cancel=True) as stream:
            for _ in range(3):
                stream.ask(text_input="go", sampling_parameters=ENDLESS)
            with pytest.raises(InferenceServerException, match="1 requests run and 1 wait"):
                stream.answer()
        wait_until(lambda: generate(server, {"text_input": "a"}).status_code == 200, "neither runs or waits any more")


def _leave_http(server: TritonServer) -> str:
    """Begin a stream that has no end, leave it after its first event, and say what that was."""
    body = {"text_input": "go", "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{server.model}/generate_stream", json=body, timeout=120) as answer:
        return str(next(read_events(answer.iter_lines())))


def _leave_grpc(server: TritonServer) -> str:
    """The same over gRPC."""
    with grpc_stream(server, cancel=True) as stream:
        stream.ask(text_input="go", stream=True, sampling_parameters=ENDLESS)
        try:
            return stream.text()
        except InferenceServerException as error:
            return str(error)


def test_an_engine_that_fails_in_the_middle(tmp_path):
    with TritonServer(triton_package(tmp_path / "package", options={"fail_after": 2, "delay_ms": 5})) as server:
        events = generate_stream(server.wait_ready(), {"text_input": WORDS, "stream": True})
        assert "".join(event.get("text_output", "") for event in events) == "one two"
        assert events[-1] == {"error": "the engine failed; the answer is not complete"}
        wait_until(lambda: bool(server.events("stream failed")), "the log has it")


def test_unload_and_reload(tmp_path):
    package = triton_package(tmp_path / "package", options={"delay_ms": 5})
    with TritonServer(package, "--model-control-mode=explicit", "--load-model=hello") as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.wait_ready().grpc}")
        assert server.model_processes() == 1
        for life in (1, 2):
            client.unload_model("hello")
            wait_until(lambda: server.model_processes() == 0, "the model's process has ended")
            assert _stopped(server, life)
            assert generate(server, {"text_input": "a"}).status_code == 404
            client.load_model("hello")
            assert generate(server, {"text_input": "a"}).json()["text_output"] == "aa"
        client.close()


def test_unloading_lets_streams_end(tmp_path):
    package = triton_package(tmp_path / "package", options={"delay_ms": 100})
    with TritonServer(package, "--model-control-mode=explicit", "--load-model=hello") as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.wait_ready().grpc}")
        body = {"text_input": "w " * 20, "stream": True, "return_finish_reason": True}
        with httpx.stream("POST", f"{server.model}/generate_stream", json=body, timeout=30) as answer:
            events = read_events(answer.iter_lines())
            assert next(events)["text_output"] == "w"
            client.unload_model("hello")
            assert generate(server, {"text_input": "a"}).status_code == 404
            assert list(events)[-1]["finish_reason"] == "stop"
        wait_until(lambda: server.model_processes() == 0, "the model's process has ended")
        assert _stopped(server, 1)
        client.close()


def _stopped(server: TritonServer, times: int) -> bool:
    """Waits for the log to say so."""
    wait_until(lambda: len(server.events("stopped")) >= times, "the log says that the engine was stopped")
    return len(server.events("stopped")) == times


def test_an_image_lets_nobody_load_models(server):
    answer = httpx.post(f"{server.url}/v2/repository/models/hello/unload", json={}, timeout=60)
    assert answer.status_code == 503
    assert "not allowed" in answer.json()["error"]


def test_a_load_that_fails_says_why(tmp_path):
    package = triton_package(tmp_path / "package", options={"no_such_option": 1})
    with TritonServer(package) as server:
        assert server.wait_exit() != 0
        assert "no_such_option" in server.output()
    with TritonServer(package, "--model-control-mode=explicit") as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.wait_ready().grpc}")
        with pytest.raises(InferenceServerException, match="no_such_option"):
            client.load_model("hello")
        wait_until(lambda: server.model_processes() == 0, "the model's process has ended")
        client.close()


def test_api_keys_would_be_checked_by_nobody(tmp_path):
    with TritonServer(triton_package(tmp_path / "package"), PACKAGER_API_KEYS="secret") as server:
        assert server.wait_exit() != 0
        assert "PACKAGER_API_KEYS is set, and Triton checks no API keys" in server.output()


def test_a_stop_signal_lets_streams_end(tmp_path):
    package = triton_package(tmp_path / "package", options={"delay_ms": 100})
    with TritonServer(package) as server:
        body = {"text_input": "w " * 10, "stream": True, "return_finish_reason": True}
        with httpx.stream("POST", f"{server.wait_ready().model}/generate_stream", json=body, timeout=120) as answer:
            events = read_events(answer.iter_lines())
            assert next(events)["text_output"] == "w"
            server.terminate()
            assert list(events)[-1]["finish_reason"] == "stop"
        assert server.wait_exit() == 0
        assert _stopped(server, 1)


class TestSharedMemory:
    """A file in /dev/shm for each process of a model: in a pod it outlives the container."""

    @pytest.mark.parametrize("end", [TritonServer.terminate, TritonServer.kill])
    def test_nothing_stays_however_it_ends(self, tmp_path, end):
        with TritonServer(triton_package(tmp_path / "package")) as server:
            (stub,) = server.wait_ready().stubs()
            assert server.prefix in " ".join(stub.cmdline())
            end(server)
            server.wait_exit()
            assert server.regions() == []

    def test_nothing_stays_of_models_that_were_unloaded_or_never_loaded(self, tmp_path):
        package = triton_package(tmp_path / "package")
        with TritonServer(package, "--model-control-mode=explicit", "--load-model=hello") as server:
            client = triton.InferenceServerClient(f"127.0.0.1:{server.wait_ready().grpc}")
            client.unload_model("hello")
            wait_until(lambda: server.model_processes() == 0, "the model's process has ended")
            (package / "model/manifest.json").write_text("{")
            with pytest.raises(InferenceServerException, match="manifest"):
                client.load_model("hello")
            client.close()
            wait_until(lambda: server.regions() == [], "nothing is left in shared memory")


def test_after_the_drain_there_is_time_to_stop_the_engine(tmp_path):
    with TritonServer(triton_package(tmp_path / "package", drain_seconds=0)) as server:
        server.wait_ready().terminate()
        assert server.wait_exit() == 0
        assert _stopped(server, 1)


def test_llama_cpp_answers_as_without_triton(tmp_path):
    package = triton_package(tmp_path / "package", engine="llama_cpp", weights=write_tiny_gguf(tmp_path / "model.gguf"))
    asked = {"max_tokens": 12, "temperature": 0}
    with load(package) as model:
        expected = model.predict({"prompt": WORDS, **asked})["text"]
    body = {"text_input": WORDS, "sampling_parameters": json.dumps(asked)}
    with TritonServer(package) as server:
        whole = generate(server.wait_ready(), body | {"exclude_input_in_output": True}).json()["text_output"]
        streamed: list[str] = []

        def ask() -> None:
            events = generate_stream(server, body | {"stream": True})
            streamed.append("".join(event["text_output"] for event in events))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [whole, *streamed] == [expected] * 5


MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes.lora import write_adapter
from fakes.models import write_model
write_model(Path(sys.argv[2]) / "llama", "llama")
write_adapter(Path(sys.argv[2]) / "tuned", strength=4)
"""


@pytest.mark.slow
def test_vllm_with_an_adapter_by_its_name(tmp_path):
    environment = with_numpy_1(ROOT / ".venv-vllm", tmp_path / "environment")
    making = [str(ROOT / ".venv-vllm/bin/python"), "-c", MAKE, str(ROOT / "tests"), str(tmp_path)]
    subprocess.run(making, check=True, capture_output=True)
    options = {"context_length": 256, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125, "max_lora_rank": 16}
    package = triton_package(
        tmp_path / "package",
        engine="vllm",
        options=options,
        weights=tmp_path / "llama",
        adapters={"tuned": tmp_path / "tuned"},
    )
    body = {"text_input": "hello", "max_tokens": 8, "temperature": 0, "exclude_input_in_output": True}
    with TritonServer(package, environment=environment) as server:
        plain = generate(server.wait_ready(180), body).json()["text_output"]
        events = generate_stream(server, body | {"stream": True})
        tuned = generate(server, body | {"sampling_parameters": '{"lora_name": "tuned"}'}).json()["text_output"]
        refused = generate(server, body | {"sampling_parameters": '{"lora_name": "other"}'}).json()["error"]
        server.terminate()
        assert server.wait_exit() == 0
    assert "".join(event["text_output"] for event in events) == plain
    assert plain != tuned
    assert refused == "lora_name names no adapter of this package, which has tuned: other"
