"""The walk-throughs that the project grew from, by their examples: each is packaged with a small model of its
architecture, served by its engine, and asked by the walk-through's own clients.

Engines run in their environments (`make engines`); LMDeploy and TensorRT-LLM, which need a GPU, are stand-ins.
"""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc.aio as triton
from fakes.cli import ROOT, packager
from fakes.compiled import description, install
from fakes.gguf import BAICHUAN_LAYERS, write_tiny_gguf
from fakes.installed import SECONDS, bare_env, run, served
from fakes.machine import free_port, missing
from fakes.nvml import A100, write_nvml
from fakes.serving import wait_until
from fakes.standins import VENDOR, write_compiled
from fakes.tritonserver import TritonServer, with_numpy_1
from fakes.walkthroughs import CONTEXT, EXAMPLES, ask_as_written, curl, package_of, small_package

from packager.digest import sha256_hex

pytestmark = pytest.mark.slow

MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes.models import write_model
write_model(Path(sys.argv[2]), sys.argv[3], context_length=int(sys.argv[4]))
"""


@dataclass(frozen=True)
class Asked:
    """The package of the example of its name, served at `port` of this machine."""

    port: int
    package: Path

    @property
    def model(self) -> str:
        return self.package.name

    def curl(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that is answered to a line as the walk-throughs have it in their shells."""
        asked = ("-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body))
        return json.loads(curl(*asked, f"127.0.0.1:{self.port}{path}"))

    def as_the_readmes_say(self, folder: Path, ports: Mapping[int, int] | None = None) -> None:
        """What the example's README and the package's say to ask works as it stands, typed in `folder`."""
        for readme in (EXAMPLES / self.model, self.package):
            for said in ask_as_written(readme / "README.md", ports or {3000: self.port}, folder):
                assert said.strip()
                assert '"error"' not in said
                assert "StatusCode" not in said  # tritonclient's


def python_of(engine: str) -> Path:
    python = ROOT / f".venv-{engine}" / "bin" / "python"
    if not python.exists():
        missing(f"there is no .venv-{engine} (`make engines` sets it up)")
    return python


def make_model(folder: Path, shape: str, engine: str, context: int = CONTEXT) -> Path:
    """A small model of the architecture `shape`, made in the engine's environment."""
    run([python_of(engine), "-c", MAKE, ROOT / "tests", folder, shape, str(context)])
    return folder


@contextmanager
def serving(package: Path, python: Path, *libraries: Path) -> Iterator[Asked]:
    """The package under packager's runner, once it is ready; told to end, it ends with 0.

    `libraries` are found before what the environment has.
    """
    port = free_port()
    argv = [python, "-m", "packager_runtime.runtime", "serve", ".", "--port", str(port)]
    env = bare_env(package.parent) | {"PYTHONPATH": ":".join(["packages", *map(str, libraries)])}
    with served(argv, cwd=package, env=env, port=port) as (_, process):
        yield Asked(port, package)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def ask_with_openai(asked: Asked) -> None:
    """A chat and a completion, whole and streamed, with the openai client."""
    wanted: dict[str, Any] = {"model": asked.model, "max_tokens": 16, "temperature": 0}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    chat = {"messages": [{"role": "user", "content": "What is machine learning?"}]}
    prompt = {"prompt": "San Francisco is a"}
    with openai.OpenAI(base_url=f"http://127.0.0.1:{asked.port}/v1", api_key="none", max_retries=0) as client:
        assert client.models.list().data[0].id == asked.model
        whole = client.chat.completions.create(**wanted, **chat)
        *chunks, last = client.chat.completions.create(**wanted, **chat, **streamed)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        assert text
        assert last.usage == whole.usage
        whole = client.completions.create(**wanted, **prompt)
        *chunks, last = client.completions.create(**wanted, **prompt, **streamed)
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
        assert last.usage == whole.usage


class TestBaichuan2:
    """Asked of vLLM's OpenAI server with curl and the openai client. What needs no code of the model's is llama.cpp."""

    @pytest.fixture(scope="class")
    @classmethod
    def package(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("baichuan")
        (folder / "weights").mkdir()
        file = folder / "weights/baichuan2-13b-chat-q4_k_m.gguf"
        write_tiny_gguf(file, architecture="baichuan", layers=BAICHUAN_LAYERS)
        return small_package("baichuan2-13b-llama-cpp", folder / "project", folder / "weights")

    def test_its_clients(self, package: Path, tmp_path: Path) -> None:
        with serving(package, Path(sys.executable)) as asked:
            body = {"model": asked.model, "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}
            assert asked.curl("/v1/completions", body)["usage"]["completion_tokens"] == 7
            ask_with_openai(asked)
            asked.as_the_readmes_say(tmp_path)

    def test_bentoml_serves_it_too(self, package: Path) -> None:
        port = free_port()
        argv = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
        with served(argv, cwd=package, env=bare_env(package.parent), port=port):
            ask_with_openai(Asked(port, package))


class TestTransformersAndVllm:
    """The two sides of a load test: Phi-2, one request at a time, and Qwen1.5, whose vLLM stands behind Triton (below)."""

    SIDES: tuple[tuple[str, str, str], ...] = (
        ("phi-2-transformers", "phi", "transformers"),
        ("phi-2-vllm", "phi", "vllm"),
        ("qwen1.5-1.8b-chat-transformers", "qwen2", "transformers"),
    )

    @pytest.fixture(scope="class", params=SIDES, ids=lambda side: side[0])
    @classmethod
    def asked(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
        example, shape, engine = request.param
        folder = tmp_path_factory.mktemp(example)
        package = small_package(example, folder / "project", make_model(folder / "weights", shape, engine))
        with serving(package, python_of(engine)) as asked:
            yield asked

    def test_its_clients(self, asked: Asked, tmp_path: Path) -> None:
        prompt = "Instruct: Write a detailed analogy between mathematics and a lighthouse.\nOutput:"
        answer = asked.curl("/predict", {"prompt": prompt, "max_tokens": 20, "ignore_eos": True})
        assert answer["usage"]["completion_tokens"] == 20
        asked.as_the_readmes_say(tmp_path)

    @pytest.mark.parametrize("concurrency", [1, 2, 4, 16, 32])
    def test_its_load_test(self, asked: Asked, concurrency: int, tmp_path: Path) -> None:
        """By packager's own measuring client; what it comes to is measured by benchmarks/walkthroughs.py."""
        url, number = f"http://127.0.0.1:{asked.port}", str(concurrency)
        load = ["--prompts", number, "--concurrency", number, "--input-words", "8", "--max-tokens", "8", "--ignore-eos"]
        file = tmp_path / "found.json"
        done = packager("bench", url, "--model", asked.model, *load, "--output", file, cwd=tmp_path, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(file.read_text())
        assert (found["completed"], found["total_output_tokens"]) == (concurrency, 8 * concurrency)


DIRECT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
torch.set_num_threads(1)
folder, prompt, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
dtype = sys.argv[4]
if "load_in_4bit" in settings:
    settings["bnb_4bit_compute_dtype"] = getattr(torch, dtype)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=dtype, device_map="cpu", quantization_config=BitsAndBytesConfig(**settings)
)
inputs = tokenizer(prompt, return_tensors="pt")
(answer,) = model.generate(**inputs, max_new_tokens=24, do_sample=False)
print(json.dumps(tokenizer.decode(answer[inputs["input_ids"].shape[1] :], skip_special_tokens=True)))
"""
"""The walk-through's own program, with today's names."""
TRUSS = """
import asyncio, json, sys
from model.model import Model

async def main():
    model = Model(config={}, data_dir=None, secrets={})
    await asyncio.to_thread(model.load)
    whole = await model.predict(json.loads(sys.argv[1]))
    pieces = [piece async for piece in await model.predict(json.loads(sys.argv[1]) | {"stream": True})]
    await asyncio.to_thread(model.close)
    print(json.dumps([whole["text"], "".join(pieces)]))

asyncio.run(main())
"""
"""What Truss does with a package: `load()`, then `predict()`."""


class TestMistral:
    """Quantized by bitsandbytes to 8 and 4 bits; packaged with `load()` and `predict()`."""

    PROMPT = "[INST] What is your favourite condiment? [/INST]"
    SETTINGS: Mapping[str, Mapping[str, Any]] = {
        "int8": {"load_in_8bit": True},
        "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    }
    """The walk-through's own: where it says bfloat16, the example says float16, for its GPU."""

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_model(tmp_path_factory.mktemp("mistral") / "weights", "mistral", "transformers")

    @pytest.mark.parametrize("kind", SETTINGS)
    def test_the_text_is_its_own_programs(self, kind: str, weights: Path, tmp_path: Path) -> None:
        package, python = (
            small_package(f"mistral-7b-bnb-{kind}", tmp_path / "project", weights),
            python_of("transformers"),
        )
        dtype = json.loads((package / "model/manifest.json").read_text())["engine"]["options"]["dtype"]
        direct = [python, "-c", DIRECT, weights, self.PROMPT, json.dumps(self.SETTINGS[kind]), dtype]
        own = json.loads(run(direct).splitlines()[-1])
        body = {"prompt": self.PROMPT, "max_tokens": 24, "temperature": 0}
        env = bare_env(tmp_path) | {"PYTHONPATH": f"{package}:{package / 'packages'}"}
        predicted = run([python, "-c", TRUSS, json.dumps(body)], env=env, cwd=package)
        assert json.loads(predicted) == [own, own]
        with serving(package, python) as asked:
            assert asked.curl("/predict", body)["text"] == own
            ask_with_openai(asked)
            asked.as_the_readmes_say(tmp_path)

    def test_compiled(self, tmp_path: Path) -> None:
        """`load()` and `predict()` of a compiled engine for an A100, and a server of it: stand-ins for both."""
        weights, site = write_compiled(tmp_path / "weights"), tmp_path / "site"
        tokenizer = tmp_path / "tokenizer"
        tokenizer.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.move(weights / name, tokenizer / name)
        files = {name: described(weights / name) for name in ("config.json", "rank0.engine")}
        of = {"files": files, "tokenizer_sha256": described(tokenizer / "tokenizer.json")["sha256"]}
        (weights / "engine.json").write_text(json.dumps(description() | of))
        install(site)
        write_nvml(site, [A100])
        package = small_package("mistral-7b-trt", tmp_path / "project", weights)
        body = {"prompt": self.PROMPT, "max_tokens": 24, "temperature": 0}
        path = ":".join(map(str, (package, package / "packages", site, VENDOR)))
        truss = [sys.executable, "-c", TRUSS, json.dumps(body)]
        one, other = json.loads(run(truss, env=bare_env(tmp_path) | {"PYTHONPATH": path}, cwd=package))
        assert one == other != ""
        with serving(package, Path(sys.executable), site, VENDOR) as asked:
            assert asked.curl("/predict", body)["text"] == one
            asked.as_the_readmes_say(tmp_path)


def described(file: Path) -> dict[str, Any]:
    """What engine.json says of a file."""
    return {"sha256": sha256_hex(file.read_bytes()), "size": file.stat().st_size}


QWEN = "qwen1.5-1.8b-chat-triton-vllm"
LONG = 4096
"""Tokens of its context: an answer of that length takes longer than a test waits."""


def tensor(name: str, value: str | bool) -> triton.InferInput:
    """A tensor of one element."""
    kind, dtype = ("BOOL", np.bool_) if isinstance(value, bool) else ("BYTES", np.object_)
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype=dtype))
    return made


async def requests(prompts: Sequence[str], **sampling: str) -> AsyncIterator[dict[str, Any]]:
    """What the walk-through's client sends in one stream; an answer has its prompt's number as its id."""
    for number, prompt in enumerate(prompts):
        words = {"text_input": prompt, "stream": True, "sampling_parameters": json.dumps(sampling)}
        inputs = [tensor(name, value) for name, value in words.items()]
        outputs = [triton.InferRequestedOutput("text_output")]
        yield {"model_name": QWEN, "inputs": inputs, "outputs": outputs, "request_id": str(number)}


async def ask_triton(server: TritonServer, prompts: Sequence[str], **sampling: str) -> Mapping[str, str]:
    """Texts by prompt, asked in one gRPC stream. Raises InferenceServerException."""
    texts = dict.fromkeys(prompts, "")
    async with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        async for result, error in client.stream_infer(requests(prompts, **sampling), stream_timeout=300):
            if error is not None:
                raise error
            texts[prompts[int(result.get_response().id)]] += result.as_numpy("text_output")[0].decode()
    return texts


def whole(asked: Asked, prompt: str, **sampling: float) -> str:
    """The whole answer, as the walk-through's shell asks for it."""
    body = {"text_input": prompt, "parameters": {"stream": False, "exclude_input_in_output": True, **sampling}}
    return str(asked.curl(f"/v2/models/{asked.model}/generate", body)["text_output"])


class TestQwen:
    """On Triton with vLLM: decoupled streams, cancellation, sampling parameters, the check of a LoRA adapter's name."""

    PROMPTS = ("Hello, my name is", "The capital of France is", "The future of AI is")

    @pytest.fixture(scope="class")
    @classmethod
    def package(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("qwen")
        weights = make_model(folder / "weights", "qwen2", "vllm", LONG)
        # 32 bits: answers of one request are compared with those of several at once.
        return small_package(QWEN, folder / "project", weights, dtype="float32", context_length=LONG)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, package: Path) -> Iterator[TritonServer]:
        environment = with_numpy_1(ROOT / ".venv-vllm", package.with_name("environment"))
        short = str(package.parents[1])  # vLLM's sockets lie there, and their paths have at most 107 characters
        with TritonServer(package, environment=environment, TMPDIR=short) as server:
            yield server.wait_ready(300)
            server.terminate()
            assert server.wait_exit() == 0

    @pytest.fixture
    def asked(self, server: TritonServer, package: Path) -> Asked:
        return Asked(server.http, package)

    def test_its_shell_lines(self, asked: Asked, server: TritonServer, tmp_path: Path) -> None:
        assert whole(asked, "What is Triton Inference Server?", temperature=0, max_tokens=16)
        asked.as_the_readmes_say(tmp_path, {8000: server.http, 8001: server.grpc})

    async def test_its_client(self, asked: Asked, server: TritonServer) -> None:
        texts = await ask_triton(server, self.PROMPTS, temperature="0", max_tokens="12")
        assert texts == {prompt: whole(asked, prompt, temperature=0, max_tokens=12) for prompt in self.PROMPTS}

    async def test_sampling_parameters(self, server: TritonServer) -> None:
        drawn = {"temperature": "0.9", "top_p": "0.95", "max_tokens": "12"}
        texts = [await ask_triton(server, self.PROMPTS, seed=seed, **drawn) for seed in ("1", "1", "2")]
        assert texts[0] == texts[1] != texts[2]

    async def test_cancellation(self, asked: Asked, server: TritonServer) -> None:
        """More are asked for than may run and wait, and none of them would end for minutes: then others are answered."""
        endless = requests([f"{number} and" for number in range(200)], ignore_eos="true", max_tokens=str(LONG - 100))

        def answers() -> bool:
            body = {"text_input": "a", "max_tokens": 1}
            with suppress(httpx.TimeoutException):
                return httpx.post(f"{server.url}/v2/models/{asked.model}/generate", json=body, timeout=5).is_success
            return False

        async with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
            stream = client.stream_infer(endless)
            await anext(stream)
            await asyncio.to_thread(wait_until, lambda: not answers(), "there is no room")
            stream.cancel()
            with pytest.raises(asyncio.CancelledError):
                [_ async for _ in stream]
            await asyncio.to_thread(wait_until, answers, "there is room again")

    async def test_the_name_of_a_lora_adapter(self, server: TritonServer) -> None:
        with pytest.raises(triton.InferenceServerException, match="lora_name names no adapter of this package"):
            await ask_triton(server, self.PROMPTS, lora_name="other")


class TestInternLM2:
    """An API server, chat in the terminal and in the browser. LMDeploy is a stand-in: it needs a GPU."""

    def test_its_clients(self, tmp_path: Path) -> None:
        weights = make_model(tmp_path / "weights", "internlm2", "vllm")
        package = small_package("internlm2-7b-lmdeploy", tmp_path / "project", weights)
        with serving(package, Path(sys.executable), VENDOR) as asked:
            body = {"model": asked.model, "messages": [{"role": "user", "content": "Hello! How are you?"}]}
            answer = asked.curl("/v1/chat/completions", body | {"max_tokens": 8, "temperature": 0})
            assert answer["choices"][0]["message"]["content"]
            ask_with_openai(asked)
            asked.as_the_readmes_say(tmp_path)
            page = httpx.get(f"http://127.0.0.1:{asked.port}/chat", timeout=60)
            assert page.headers["content-type"].startswith("text/html")

    def test_its_architecture_on_vllm(self, tmp_path: Path) -> None:
        """Which has it; what reads the configuration is the repository's own code, vouched for."""
        weights, code = make_model(tmp_path / "weights", "internlm2", "vllm"), "configuration_internlm2.py"
        (weights / code).write_text(OWN_CODE)
        named = {"auto_map": {"AutoConfig": f"{code.removesuffix('.py')}.InternLM2Config"}}
        config = json.loads((weights / "config.json").read_text()) | named
        (weights / "config.json").write_text(json.dumps(config))
        spec = {
            "name": "internlm2-7b-vllm",
            "engine": {
                "kind": "vllm",
                "context_length": CONTEXT,
                "dtype": "float32",
                "eager": True,
                "kv_cache_gib": 0.125,
            },
            "weights": {"source": f"file://{weights}", "trusted_code": {code: sha256_hex(OWN_CODE.encode())}},
        }
        with serving(package_of(spec, tmp_path / "project"), python_of("vllm")) as asked:
            ask_with_openai(asked)


OWN_CODE = """\
from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"
"""
