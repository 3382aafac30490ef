"""TensorRT-LLM's models for Triton on the real tritonserver (2.51): the ensemble and its BLS model over a stand-in for the
engine's backend, and the `llmapi` model over the stand-in for the library. Tokenizer, ensemble, calls between models,
streams and what ends them are real.
"""

import json
import queue
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from fakes import models
from fakes.serving import wait_until
from fakes.tritonserver import (
    FURTHER_END,
    TritonServer,
    ensemble_package,
    machine_of_the_engine,
    read_events,
    triton_package,
    with_numpy_1,
)
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parents[2]
WORDS = "one two three four"
TEXT = "one ünï 😀 two"
EXCLUDE = "sampling_param_exclude_input_from_output"
BOTH = pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with tokenizers, and the stand-in for TensorRT-LLM: Triton's Python backend heeds no PYTHONPATH."""
    made = with_numpy_1(ROOT / ".venv", tmp_path_factory.mktemp("environment") / "made")
    (packages,) = made.glob("lib/python*/site-packages")
    (packages / "vendor.pth").write_text(f"{ROOT / 'tests/fakes/vendor'}\n")
    return made


class Engine:
    """What the stand-in for TensorRT-LLM's backend wrote down."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    @property
    def asked(self) -> dict[str, Any]:
        """The last request."""
        return self.events("asked")[-1]

    def wait_ended(self, count: int, reason: str) -> None:
        wait_until(lambda: len(self.events("ended")) >= count, "the engine has ended the request")
        assert self.events("ended")[-1]["reason"] == reason


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[tuple[TritonServer, Engine]]:
    """An ensemble whose engine runs four requests at once."""
    folder = tmp_path_factory.mktemp("ensemble")
    package = ensemble_package(folder / "package", max_queue=2)
    engine = Engine(folder / "engine.log")
    machine = machine_of_the_engine(folder / "machine")
    with TritonServer(package, environment=environment, STAND_IN_LOG=str(engine.log), **machine) as server:
        yield server.wait_ready(), engine


def ask(server: TritonServer, model: str, **body: Any) -> httpx.Response:
    body = {"text_input": WORDS, "max_tokens": 32} | body
    return httpx.post(f"{server.url}/v2/models/{model}/generate", json=body, timeout=120)


def stream(server: TritonServer, model: str, **body: Any) -> list[Any]:
    body = {"text_input": WORDS, "max_tokens": 32, "stream": True} | body
    with httpx.stream("POST", f"{server.url}/v2/models/{model}/generate_stream", json=body, timeout=120) as answer:
        return list(read_events(answer.iter_lines()))


def ids_of(text: str) -> list[int]:
    found: list[int] = Tokenizer.from_file(str(models.TOKENIZER / "tokenizer.json")).encode(text).ids
    return found


class TestBoth:
    """What holds for the ensemble and for the BLS model alike."""

    @BOTH
    def test_generate(self, started, model):
        server, engine = started
        assert ask(server, model).json()["text_output"] == WORDS
        assert engine.asked["ids"] == ids_of(WORDS)
        assert ask(server, model, text_input=TEXT).json()["text_output"] == TEXT
        special = {"text_input": "one<|endoftext|>", "end_id": -1, "max_tokens": 2}
        assert ask(server, model, **special).json()["text_output"] == "one"

    @BOTH
    def test_generate_stream(self, started, model):
        server, _ = started
        events = stream(server, model)
        assert "".join(event["text_output"] for event in events) == WORDS
        assert events[0]["text_output"] == "one"

    @BOTH
    def test_a_limit_and_the_prompt(self, started, model):
        server, _ = started
        short = ask(server, model, max_tokens=2).json()
        assert (short["text_output"], short["num_output_tokens"]) == ("one two", 2)
        assert ask(server, model, exclude_input_in_output=False).json()["text_output"] == WORDS + WORDS

    @BOTH
    def test_sampling_reaches_the_engine_under_its_names(self, started, model):
        server, engine = started
        ask(server, model, top_k=7, temperature=0.5, end_id=1, bad_words=["one", "two three"], stop_words=["zz"])
        assert (engine.asked["runtime_top_k"], engine.asked["temperature"], engine.asked["end_id"]) == (7, 0.5, 1)
        assert engine.asked["bads"] == [ids_of("one"), ids_of("two three")]
        assert engine.asked["stops"] == [ids_of("zz")]

    @BOTH
    def test_every_end_that_the_model_has(self, started, model):
        server, engine = started
        ask(server, model)
        assert (engine.asked["end_id"], engine.asked["stops"]) == (2, [[FURTHER_END]])

    @BOTH
    def test_an_engine_that_fails(self, started, model):
        answer = ask(started[0], model, temperature=66.0)
        assert answer.status_code == 400
        assert "the executor broke" in answer.json()["error"]

    @BOTH
    @pytest.mark.parametrize(
        ("asked", "what"),
        [
            ({"text_input": "w " * 3000}, "tokens; it can have 2048 of the 4096 of the context"),
            ({"max_tokens": 4095}, "max_tokens must be from 1 to 4090: the prompt has 6 tokens of 4096"),
            ({"max_tokens": 0}, "max_tokens must be from 1 to"),
            ({"text_input": ""}, "the prompt has no tokens"),
            ({"decoder_text_input": "a"}, "decoder_text_input is not supported"),
            ({"prompt_table_extra_id": 1}, "prompt_table_extra_id is not supported"),
            ({"temprature": 1}, "temprature is not supported"),
        ],
    )
    def test_what_is_refused_by_name(self, started, model, asked, what):
        answer = ask(started[0], model, **asked)
        assert answer.status_code == 400
        assert what in answer.json()["error"]

    @BOTH
    def test_requests_run_in_parallel(self, started, model):
        server, _ = started
        texts = [f"{WORDS} {number}" for number in range(6)]
        answers: dict[str, str] = {}
        threads = [
            threading.Thread(
                target=lambda text=text: answers.update(
                    {text: ask(server, model, text_input=text).json()["text_output"]}
                )
            )
            for text in texts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {text: text for text in texts}

    def test_over_grpc(self, started):
        """As NVIDIA's own client asks: tensors with a dimension for the batch, and a stream of responses."""
        server, _ = started
        values = {
            "text_input": np.array([[WORDS.encode()]], np.object_),
            "max_tokens": np.array([[32]], np.int32),
            "stream": np.array([[True]]),
        }
        for model in ("ensemble", "tensorrt_llm_bls"):
            inputs = _tensors(**values)
            results: queue.Queue[Any] = queue.Queue()
            client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
            client.start_stream(lambda result, error, results=results: results.put(error or result))
            client.async_stream_infer(model, inputs, request_id="7")
            client.stop_stream()
            client.close()
            texts = [one.as_numpy("text_output").ravel()[0].decode() for one in list(results.queue)]
            assert "".join(texts) == WORDS


def _kind(value: Any) -> str:
    return {"O": "BYTES", "i": "INT32", "b": "BOOL"}[value.dtype.kind]


def test_text_that_is_not_utf_8(started):
    server, _ = started
    for model in ("ensemble", "tensorrt_llm_bls"):
        for name in ("text_input", "stop_words"):
            values = {"text_input": np.array([[b"a"]], np.object_), "max_tokens": np.array([[3]], np.int32)}
            values[name] = np.array([[b"\xff"]], np.object_)
            results: queue.Queue[Any] = queue.Queue()
            client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
            client.start_stream(lambda result, error, results=results: results.put(error or result))
            client.async_stream_infer(model, _tensors(**values))
            assert f"{name} is not UTF-8" in results.get(timeout=120).message()
            client.stop_stream()
            client.close()


@BOTH
def test_a_timeout_that_nobody_would_heed(started, model):
    values = {"text_input": np.array([[b"a"]], np.object_), "max_tokens": np.array([[3]], np.int32)}
    results: queue.Queue[Any] = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{started[0].grpc}")
    client.start_stream(lambda result, error: results.put(error or result))
    client.async_stream_infer(model, _tensors(**values), timeout=5)
    found = results.get(timeout=20)
    client.stop_stream()
    client.close()
    assert "timeout is not supported by this model server" in found.message()


def test_nothing_would_stay_in_shared_memory(started):
    server, _ = started
    assert len(server.stubs()) == 7
    assert len(server.regions()) == 1  # the stand-in's for the engine


class TestEnsemble:
    def test_a_batch(self, started):
        server, engine = started
        before = len(engine.events("asked"))
        client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        values = {
            "QUERY": np.array([[b"one"], [b"one two three"]], np.object_),
            "REQUEST_OUTPUT_LEN": np.array([[4], [5]], np.int32),
            "STOP_WORDS_DICT": np.array([[b"a", b"one two"], [b"", b""]], np.object_),
        }
        found = client.infer("preprocessing", _tensors(**values))
        client.close()
        first, second = ids_of("one"), ids_of("one two three")
        assert found.as_numpy("INPUT_ID").tolist() == [first + [2] * (len(second) - len(first)), second]
        assert found.as_numpy("REQUEST_INPUT_LEN").tolist() == [[len(first)], [len(second)]]
        words = [*ids_of("a"), *ids_of("one two"), FURTHER_END]
        stops = found.as_numpy("STOP_WORDS_IDS").tolist()
        fill = [-1] * (len(words) - 3)
        assert stops[0] == [words, [1, len(words) - 1, len(words), *fill]]
        assert stops[1] == [[FURTHER_END, *[0] * (len(words) - 1)], [1, -1, -1, *fill]]
        assert len(engine.events("asked")) == before

    def test_pieces_of_a_stream_are_decoded_alone(self, started):
        """As NVIDIA's: a character of several tokens is broken there, and whole in the BLS model's streams."""
        server, _ = started
        broken = "".join(event["text_output"] for event in stream(server, "ensemble", text_input=TEXT))
        assert "�" in broken
        assert "".join(event["text_output"] for event in stream(server, "tensorrt_llm_bls", text_input=TEXT)) == TEXT


class TestBls:
    def test_stop_words_however_they_are_tokenized(self, started):
        server, engine = started
        assert ask(server, "tensorrt_llm_bls", stop_words=["three"]).json()["text_output"] == "one two "
        ended = len(engine.events("ended"))
        events = stream(server, "tensorrt_llm_bls", stop_words=["twoone"], text_input="one two", end_id=-1)
        assert "".join(event["text_output"] for event in events) == "one "
        engine.wait_ended(ended + 1, "stopped")

    def test_what_was_held_back_for_a_stop_word_comes_at_the_end(self, started):
        events = stream(started[0], "tensorrt_llm_bls", stop_words=["four five"])
        assert "".join(event["text_output"] for event in events) == WORDS

    @pytest.mark.parametrize(
        ("asked", "what"),
        [
            ({"num_draft_tokens": 3}, "num_draft_tokens is not supported"),
            ({"image_url_input": "http://x"}, "image_url_input is not supported"),
            ({"num_return_sequences": 2}, "num_return_sequences must be 1"),
        ],
    )
    def test_what_is_refused_by_name(self, started, asked, what):
        answer = ask(started[0], "tensorrt_llm_bls", **asked)
        assert answer.status_code == 400
        assert what in answer.json()["error"]

    @pytest.mark.parametrize("asked", [{"beam_width": 2}, {"exclude_input_in_output": False}])
    def test_what_is_refused_in_a_stream(self, started, asked):
        (event,) = stream(started[0], "tensorrt_llm_bls", **asked)
        assert next(iter(asked)) in event["error"]

    @pytest.mark.parametrize("way", ["http", "grpc"])
    def test_leaving_ends_the_request_in_the_engine(self, started, way):
        server, engine = started
        ended = len(engine.events("ended"))
        {"http": _leave_http, "grpc": _leave_grpc}[way](server)
        engine.wait_ended(ended + 1, "stopped")
        assert engine.events("ended")[-1]["written"] < 4000

    def test_more_than_are_taken(self, started):
        """Four run; what waits then is bounded."""
        server, engine = started
        ended, left = len(engine.events("ended")), []
        url = f"{server.url}/v2/models/tensorrt_llm_bls/generate_stream"
        body = {"text_input": "one", "max_tokens": 4000, "stream": True, "end_id": -1}
        answers: queue.Queue[httpx.Response] = queue.Queue()
        threads = [threading.Thread(target=lambda: answers.put(ask(server, "tensorrt_llm_bls"))) for _ in range(12)]
        with httpx.Client(timeout=120) as client:
            for _ in range(4):
                answer = client.send(client.build_request("POST", url, json=body), stream=True)
                events = read_events(answer.iter_lines())
                assert next(events)["text_output"] == "one"
                left.append((answer, events))  # events that nobody keeps close their answer
            for thread in threads:
                thread.start()
            refused = [answers.get(timeout=120) for _ in range(6)]
            for answer, _ in left:
                answer.close()
        assert all("Exceeds maximum queue size" in one.json()["error"] for one in refused)
        for thread in threads:
            thread.join()
        assert [answers.get().json()["text_output"] for _ in range(6)] == [WORDS] * 6
        wait_until(lambda: len(engine.events("ended")) >= ended + 10, "the engine has ended them all")


def _leave_http(server: TritonServer) -> None:
    """Begin a stream that has no end, and leave it after its first event."""
    body = {"text_input": "one", "max_tokens": 4000, "stream": True, "end_id": -1}
    url = f"{server.url}/v2/models/tensorrt_llm_bls/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=120) as answer:
        assert next(read_events(answer.iter_lines()))["text_output"] == "one"


def _leave_grpc(server: TritonServer) -> None:
    """The same over gRPC."""
    values = {
        "text_input": np.array([[b"one"]], np.object_),
        "max_tokens": np.array([[4000]], np.int32),
        "end_id": np.array([[-1]], np.int32),
        "stream": np.array([[True]]),
    }
    results: queue.Queue[Any] = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")
    client.start_stream(lambda result, error: results.put(error or result))
    client.async_stream_infer("tensorrt_llm_bls", _tensors(**values))
    assert results.get(timeout=120).as_numpy("text_output").ravel()[0] == b"one"
    client.stop_stream(cancel_requests=True)
    client.close()


def test_an_engine_that_fails_in_the_middle_of_a_stream(tmp_path, environment):
    """In a server of its own: Triton 2.51 counts such a request as open ever after."""
    package, log = ensemble_package(tmp_path / "package", max_concurrency=1), str(tmp_path / "engine.log")
    machine = machine_of_the_engine(tmp_path / "machine")
    with TritonServer(package, environment=environment, STAND_IN_LOG=log, **machine) as server:
        assert "the executor broke" in stream(server.wait_ready(), "ensemble", temperature=66.0)[-1]["error"]


def test_parameters_of_the_configuration_are_heeded(tmp_path, environment):
    package, engine = ensemble_package(tmp_path / "package"), Engine(tmp_path / "engine.log")
    for model, name, value in (
        ("tensorrt_llm_bls", "accumulate_tokens", "true"),
        ("postprocessing", "skip_special_tokens", "false"),
    ):
        config = package / f"triton/{model}/config.pbtxt"
        before = config.read_text()
        config.write_text(re.sub(rf'(key: "{name}"\s*value {{\s*string_value: )"\w+"', rf'\1"{value}"', before))
        assert config.read_text() != before
    machine = machine_of_the_engine(tmp_path / "machine")
    with TritonServer(package, environment=environment, STAND_IN_LOG=str(engine.log), **machine) as server:
        events = stream(server.wait_ready(), "tensorrt_llm_bls", text_input="one two")
        assert [event["text_output"] for event in events] == ["one", "one two", "one two"]
        special = {"text_input": "one<|endoftext|>", "end_id": -1, "max_tokens": 2}
        assert ask(server, "ensemble", **special).json()["text_output"] == "one<|endoftext|>"
        server.terminate()
        assert server.wait_exit() == 0


def test_the_engine_is_told_where_its_files_are(started):
    server, engine = started
    (loaded,) = engine.events("loaded")
    assert (Path(loaded["path"]) / "rank0.engine").read_bytes() == b"plan of rank 0"
    answer = httpx.post(f"{server.url}/v2/repository/models/tensorrt_llm/unload", json={}, timeout=60)
    assert (answer.status_code, "not allowed" in answer.json()["error"]) == (503, True)
    assert "nv_inference_request_success" in httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=60).text


def test_as_it_is_but_for_the_backends_library(tmp_path, environment):
    """The configuration that packages have: the one thing that this server misses is TensorRT-LLM's backend."""
    package = ensemble_package(tmp_path / "package", stand_in=False)
    machine = machine_of_the_engine(tmp_path / "machine")
    with TritonServer(package, environment=environment, **machine) as server:
        assert server.wait_exit() != 0
        (failed,) = [line for line in server.lines if "failed to load '" in line and "version" in line]
        reason = failed.partition("failed to load ")[2].strip()
        assert reason == (
            "'tensorrt_llm' version 1: Invalid argument: unable to find backend library for backend 'tensorrtllm', "
            'try specifying runtime on the model configuration."'
        )
        for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
            assert any(f"| {model} " in line and "| READY" in line for line in server.lines)


@pytest.fixture(scope="module")
def llmapi(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[TritonServer]:
    weights = tmp_path_factory.mktemp("llmapi") / "weights"
    weights.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models.TOKENIZER / name, weights / name)
    (weights / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    package = triton_package(
        weights.parent / "package", engine="tensorrt_llm", weights=weights, server="triton", triton="llmapi"
    )
    with TritonServer(package, environment=environment) as running:
        yield running.wait_ready()
        running.terminate()
        assert running.wait_exit() == 0


class TestLlmapi:
    def ask(self, server: TritonServer, **body: Any) -> Any:
        body = {"text_input": WORDS} | body
        return httpx.post(f"{server.url}/v2/models/tensorrt_llm/generate", json=body, timeout=120)

    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            ({}, WORDS),
            ({"sampling_param_max_tokens": 2, "sampling_param_best_of": 1}, "one two"),
            ({"sampling_param_stop": ["three", "four"]}, "one two "),
            ({"sampling_param_temperature": 0.0, "sampling_param_top_p": 1.0, "streaming": False}, WORDS),
        ],
    )
    def test_generate(self, llmapi, asked, text):
        """NVIDIA's model has the prompt before the text unless told otherwise (its helpers.py at fab2f90)."""
        for words, before in (({}, WORDS), ({EXCLUDE: False}, WORDS), ({EXCLUDE: True}, "")):
            assert self.ask(llmapi, **asked, **words).json()["text_output"] == before + text

    def test_a_stream_has_the_text_so_far(self, llmapi):
        body = {"text_input": "one two", "streaming": True, "return_finish_reason": True}
        url = f"{llmapi.url}/v2/models/tensorrt_llm/generate_stream"
        with httpx.stream("POST", url, json=body, timeout=120) as answer:
            events = list(read_events(answer.iter_lines()))
        assert [event["text_output"] for event in events] == ["one", "one two", "one two"]
        assert [event.get("finish_reason") for event in events] == [None, None, "stop"]

    @pytest.mark.parametrize(
        ("asked", "what"),
        [
            ({"sampling_param_best_of": 2}, "sampling_param_best_of is not supported"),
            ({"sampling_param_seed": 1}, "seed is not supported by the engine tensorrt_llm"),
            ({"sampling_param_frequency_penalty": 0.5}, "frequency_penalty is not supported by the engine"),
            ({"sampling_param_return_perf_metrics": True}, "sampling_param_return_perf_metrics is not supported"),
            ({"return_stop_reason": True}, "return_stop_reason is not supported"),
            ({"text_input": ["a", "b"]}, "text_input must be one text"),
            ({"sampling_param_temprature": 1}, "sampling_param_temprature is not supported"),
            ({"stop": True}, "stop needs the id of the request to end"),
        ],
    )
    def test_what_is_refused_by_name(self, llmapi, asked, what):
        answer = self.ask(llmapi, **asked)
        assert answer.status_code == 400
        assert what in answer.json()["error"]

    def test_a_request_is_ended_by_its_id(self, llmapi):
        results: queue.Queue[Any] = queue.Queue()
        client = triton.InferenceServerClient(f"127.0.0.1:{llmapi.grpc}")
        client.start_stream(lambda result, error: results.put(error or result))
        inputs = _tensors(text_input=np.array([b"one"], np.object_), streaming=np.array([True]))
        client.async_stream_infer("tensorrt_llm", inputs, request_id="mine", parameters={"ignore_eos": True})
        assert results.get(timeout=120).as_numpy("text_output")[0] == b"one"
        stop = _tensors(text_input=np.array([b""], np.object_), stop=np.array([True]))
        client.async_stream_infer("tensorrt_llm", stop, request_id="mine")
        ends = []
        while len(ends) < 2:
            result = results.get(timeout=120)
            ends += [result.message()] if isinstance(result, InferenceServerException) else []
        assert ends == ["the request was cancelled"] * 2
        client.stop_stream()
        client.close()

    def test_outputs_that_it_never_has(self, llmapi):
        results: queue.Queue[Any] = queue.Queue()
        client = triton.InferenceServerClient(f"127.0.0.1:{llmapi.grpc}")
        client.start_stream(lambda result, error: results.put(error or result))
        for name in ("finish_reason", "kv_cache_hit_rate"):
            outputs = [triton.InferRequestedOutput(one) for one in ("text_output", name)]
            client.async_stream_infer(
                "tensorrt_llm", _tensors(text_input=np.array([b"one"], np.object_)), outputs=outputs
            )
            result = results.get(timeout=120)
            if name == "finish_reason":
                assert result.as_numpy(name)[0] == b"stop"
            else:
                assert "the output kv_cache_hit_rate is not to be had" in result.message()
        client.stop_stream()
        client.close()


def _tensors(**values: Any) -> list[triton.InferInput]:
    inputs = [triton.InferInput(name, one.shape, _kind(one)) for name, one in values.items()]
    for tensor, one in zip(inputs, values.values(), strict=True):
        tensor.set_data_from_numpy(one)
    return inputs
