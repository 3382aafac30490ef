"""`packager convert` as people run it: a hub on loopback, TensorRT-LLM and NVML by stand-ins in processes of their own."""

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import ROOT, environment, packager
from fakes.compiled import SOFTWARE, install
from fakes.hub import Hub
from fakes.nvml import A10G, A100, FakeGpu, write_nvml
from fakes.web import Status

from packager.command import run_command
from packager.digest import hash_file
from packager.errors import SpecError
from packager.lock.tools import Tools
from packager.lock.weights import lock_weights
from packager.spec.load import load_spec
from packager.store import Store
from packager.weights.compiled import read_build

VENDOR = ROOT / "tests/fakes/vendor"
IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"
A100_80GB = replace(A100, memory_mib=81920)
SPEC = """name: mistral
engine: {kind: tensorrt_llm_engine%(engine)s}
weights: {source: %(weights)s, ship: on_load}
quantization: %(quantization)s
conversion:
  source: %(source)s
%(conversion)s
hardware: {gpu: a100-40gb, count: %(count)s}
serving: {max_concurrency: 16}
image: {base: {kind: registry, image: "%(image)s"}}
"""
DEFAULTS = {"engine": "", "weights": "hf://ada/mistral-trt", "quantization": "none", "source": "hf://ada/mistral"}
DEFAULTS |= {"conversion": "", "count": "1", "image": IMAGE}


class Machine:
    """A folder with a spec, and the environment of a machine that compiles."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self.hub, self.sites, self.vendor = folder, hub, 0, VENDOR

    def spec(self, **changed: str) -> None:
        (self.folder / "packager.yaml").write_text(SPEC % (DEFAULTS | changed))

    def env(self, gpus: tuple[FakeGpu, ...] | None = (A100,), software: Mapping[str, str] = SOFTWARE) -> dict[str, str]:
        self.sites += 1
        site = install(self.folder / f"site{self.sites}", software)
        site.mkdir(exist_ok=True)
        if gpus is not None:
            write_nvml(site, gpus)
        path = os.pathsep.join(map(str, (site, ROOT, self.vendor)))
        clean = {name: "" for name in os.environ if name.startswith("HF_")}
        return {
            **clean,
            "PYTHONPATH": path,
            "CUDA_VERSION": "13.1.0",
            "HF_ENDPOINT": self.hub.url,
            "HF_TOKEN": "secret",
        }

    def run(self, *argv: str | Path, **state: Any) -> "subprocess.CompletedProcess[str]":
        return packager(*argv, cwd=self.folder, cache=self.folder / "cache", env=self.env(**state))

    def convert(self, *argv: str | Path, **state: Any) -> "subprocess.CompletedProcess[str]":
        return self.run("convert", ".", "--output", "engine", *argv, **state)

    @contextmanager
    def here(self) -> Iterator[None]:
        """This process finds the hub as well."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", self.hub.url)
            yield

    def left(self) -> list[str]:
        """What a conversion left behind, besides its lock."""
        found = {path.name for path in self.folder.iterdir()} - {"packager.yaml", "cache", "model"}
        return sorted(name for name in found if not name.startswith("site") and not name.endswith(".lock"))


def model(**config: Any) -> dict[str, bytes]:
    """The files of a model of transformers, but that its weights are four numbers."""
    facts = {"architectures": ["MistralForCausalLM"], "dtype": "bfloat16", "num_attention_heads": 4}
    head = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    words = {
        "config.json": facts | {"max_position_embeddings": 256} | config,
        "generation_config.json": {"eos_token_id": 2},
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"eos_token": "</s>"},
    }
    files = {name: json.dumps(value).encode() for name, value in words.items()}
    return {**files, "model.safetensors": len(head).to_bytes(8, "little") + head + bytes(range(16))}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "model").mkdir()
    files = model()
    for name, data in files.items():
        (tmp_path / "model" / name).write_bytes(data)
    with Hub() as hub:
        hub.tokens.add("secret")
        hub.add_repo("ada/mistral", {**files, "README.md": b"card"}, lfs=("*.safetensors",))
        yield Machine(tmp_path, hub)


def errors(done: "subprocess.CompletedProcess[str]") -> list[str]:
    assert done.returncode == 1, (done.stdout, done.stderr)
    return [line for line in done.stderr.splitlines() if line.startswith(("error: ", "  mend: "))]


def test_from_a_model_on_the_hub_to_an_engine_that_a_spec_can_lock(machine, tmp_path):
    machine.spec(quantization="int8", conversion="  max_seq_len: 128\n  max_input_len: 100")
    done = machine.convert("--image", f"{IMAGE}@sha256:{'0' * 64}")
    assert done.returncode == 0, done.stderr
    engine, model = tmp_path / "engine", tmp_path / "model"
    assert done.stdout == f"weights:\n  source: file://{engine}\n"
    assert "Total time of building all engines" in done.stderr
    build = read_build((engine / "engine.json").read_bytes())
    assert (build.quant_algo, build.kv_cache_quant_algo, build.dtype) == ("W8A16", None, "bfloat16")
    limits = build.limits
    assert (limits.max_batch_size, limits.max_input_len, limits.max_seq_len, limits.max_num_tokens) == (
        16,
        100,
        128,
        2048,
    )
    assert (build.source_model.repo, len(build.source_model.revision)) == ("ada/mistral", 40)
    assert (build.gpu.name, build.tensorrt_llm, build.image) == (A100.name, "1.2.1", f"{IMAGE}@sha256:{'0' * 64}")
    # The words are the model's own, whatever TensorRT-LLM saved; the model's config.json and weights are not there.
    assert sorted(path.name for path in engine.iterdir()) == [
        "config.json", "engine.json", "generation_config.json", "rank0.engine", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert hash_file(engine / name) == hash_file(model / name)
    assert (engine / "rank0.engine").read_bytes().endswith((model / "model.safetensors").read_bytes())
    assert machine.left() == ["engine"]
    # Describing it again says the same.
    before = (engine / "engine.json").read_bytes()
    said = ("--image", f"{IMAGE}@sha256:{'0' * 64}", "--source-model", f"ada/mistral@{build.source_model.revision}")
    described = machine.run("engine", "describe", "engine", *said)
    assert described.returncode == 0, described.stderr
    assert (engine / "engine.json").read_bytes() == before


def test_the_lock_takes_it_and_an_upload_is_read_back_equal(machine, tmp_path):
    machine.spec(quantization="awq", engine=", kv_cache: int8, tensor_parallel: 2", count="2")
    done = machine.convert("--upload", gpus=(A100, replace(A100, uuid="GPU-2")))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "weights:\n  source: hf://ada/mistral-trt\n"
    engine = tmp_path / "engine"
    (commit,) = [one for one in machine.hub.repos["ada/mistral-trt"].commits.values() if "engine.json" in one]
    assert {path: entry.data for path, entry in commit.items() if not path.startswith(".")} == {
        path.name: path.read_bytes() for path in engine.iterdir()
    }
    assert "calib_max_seq_length=512" in done.stderr
    machine.spec(
        quantization="awq", engine=", kv_cache: int8, tensor_parallel: 2", count="2", weights=f"file://{engine}"
    )
    locked, _ = lock_weights(load_spec(tmp_path), Tools(Store(tmp_path / "cache"), run_command))
    assert locked.compiled == read_build((engine / "engine.json").read_bytes()).to_value()
    assert locked.compiled["mapping"]["world_size"] == 2


def test_an_upload_to_a_folder_beside_the_spec(machine, tmp_path):
    machine.spec(weights="file://shipped, ship: in_image")
    text = (tmp_path / "packager.yaml").read_text().replace("ship: in_image, ship: on_load", "ship: in_image")
    (tmp_path / "packager.yaml").write_text(text)
    (tmp_path / "site-elsewhere").mkdir()
    argv = ("convert", tmp_path, "--output", tmp_path / "engine", "--upload")
    done = packager(*argv, cwd=tmp_path / "site-elsewhere", cache=tmp_path / "cache", env=machine.env())
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"weights:\n  source: file://{tmp_path}/shipped\n"
    assert (tmp_path / "shipped/engine.json").read_bytes() == (tmp_path / "engine/engine.json").read_bytes()


def test_a_tokenizer_from_elsewhere_is_not_put_beside_it(machine, tmp_path):
    """The lock refuses one that weights and `weights.tokenizer` both have."""
    words = {name: data for name, data in model().items() if not name.endswith(".safetensors")}
    machine.hub.add_repo("ada/words", words)
    elsewhere = "tokenizer: hf://ada/words"
    machine.spec(weights=f"hf://ada/mistral-trt, {elsewhere}")
    done = machine.convert()
    assert done.returncode == 0, done.stderr
    engine = tmp_path / "engine"
    assert sorted(path.name for path in engine.iterdir()) == [
        "config.json", "engine.json", "generation_config.json", "rank0.engine",
    ]  # fmt: skip
    machine.spec(weights=f"file://{engine}, {elsewhere}")
    with machine.here():
        locked, tokenizer = lock_weights(load_spec(tmp_path), Tools(Store(tmp_path / "cache"), run_command))
    assert [one.path for one in tokenizer.files] == ["tokenizer.json", "tokenizer_config.json"]
    assert locked.compiled["tokenizer_sha256"] == sha256(words["tokenizer.json"]).hexdigest()
    assert "another tokenizer.json" not in done.stderr
    # What stands there later is another model's.
    machine.hub.add_repo("ada/words", {**words, "tokenizer.json": b'{"version": "2.0"}'})
    with machine.here(), pytest.raises(SpecError, match=r"tokenizer.json has the sha256 .*, and engine.json says"):
        lock_weights(load_spec(tmp_path), Tools(Store(tmp_path / "cache"), run_command))


def test_a_tokenizer_that_is_not_the_models_own_is_told(machine):
    machine.hub.add_repo("ada/words", {"tokenizer.json": b'{"version": "2.0"}'})
    machine.spec(weights="hf://ada/mistral-trt, tokenizer: hf://ada/words")
    done = machine.convert()
    assert done.returncode == 0, done.stderr
    ours, own = (sha256(one).hexdigest()[:12] for one in (b'{"version": "2.0"}', model()["tokenizer.json"]))
    assert f"`weights.tokenizer` names another tokenizer.json than the model's own: {ours}, not {own}" in done.stderr


def test_a_tokenizer_that_is_not_there_is_told_before_anything_is_compiled(machine):
    machine.hub.add_repo("ada/words", {"tokenizer.model": b"pieces"})
    machine.spec(weights="hf://ada/mistral-trt, tokenizer: hf://ada/words")
    for argv in ((), ("--dry-run",)):
        assert errors(machine.convert(*argv)) == [
            "error: packager.yaml:3:52: there is no tokenizer.json here, which the served engine needs",
            "  mend: name a repository that has it, or the folder within",
        ]
        assert machine.left() == []


def test_a_dry_run_needs_no_gpu_and_shows_every_call(machine, tmp_path):
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12345678"}
    commit = machine.hub.add_repo("ada/lora", {**adapter, "optimizer.pt": b"pickle"}, lfs=("*.safetensors",))
    of = machine.hub.repos["ada/mistral"].branches["main"]
    lines = "  merge: {source: hf://ada/lora}\n  max_seq_len: 200\n  calibration: {dataset: /texts, samples: 8}"
    machine.spec(quantization="awq", conversion=lines)
    done = machine.convert("--dry-run", "--upload", gpus=None, software={})
    assert done.returncode == 0, done.stderr
    *shown, run = done.stdout.splitlines()
    size = sum((tmp_path / "model" / name).stat().st_size for name in model())
    assert shown == [
        "mistral: TensorRT-LLM 1.2.1 on 1 a100-40gb (compute capability 8.0)",
        f"fetch     hf://ada/mistral at {of}: 5 files ({size} B)",
        f"merge     hf://ada/lora at {commit}: 2 files (10 B)",
        "          PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload(safe_merge=True)",
        "build     LLM(model='MODEL', tensor_parallel_size=1, pipeline_parallel_size=1, trust_remote_code=False, workspace='WORKSPACE')",
        "          build_config=BuildConfig(max_batch_size=16, max_input_len=200, max_seq_len=200, max_num_tokens=3200, max_beam_width=1)",
        "          quant_config=QuantConfig(quant_algo='W4A16_AWQ')",
        "          calib_config=CalibConfig(calib_dataset='/texts', calib_batches=8, calib_batch_size=1, calib_max_seq_length=512, tokenizer_max_seq_length=2048)",
        f"save      {tmp_path}/engine: rank0.engine and so on, config.json, the model's own tokenizer",
        f"describe  {tmp_path}/engine/engine.json",
        "upload    hf://ada/mistral-trt",
        f"needs     about {2 * size} B of memory, {size} B of the GPU, {size + 3 * int(size * 0.4)} B of disk beside the store ({size} B)",
    ]
    assert machine.left() == []
    argv = ("convert", ".", "--output", "nowhere/../engine", "--dry-run", "--gpu-memory", "39000", "--image", "other:1")
    *_, run_so = machine.run(*argv, gpus=None, software={}).stdout.splitlines()
    assert run_so.endswith(f" --output {tmp_path}/engine --image other:1 --gpu-memory 39000'")
    docker = shlex.split(run.removeprefix("run       "))
    assert docker[:4] == ["docker", "run", "--rm", "--gpus"]
    assert f"{tmp_path}:{tmp_path}" in docker
    assert docker[-4:-1] == [IMAGE, "bash", "-c"]
    assert docker[-1].endswith(
        f"/bin/packager convert {tmp_path}/packager.yaml --output {tmp_path}/engine --image {IMAGE} --upload"
    )


@pytest.mark.parametrize("why", ["offline", "the hub asks for less"])
def test_a_dry_run_out_of_reach_of_the_model_plans_from_a_config_beside_the_spec(machine, tmp_path, monkeypatch, why):
    if why == "offline":
        monkeypatch.setenv("PACKAGER_OFFLINE", "1")
    else:
        machine.hub.faults = lambda _: Status(429, headers={"Retry-After": "0"})
    machine.spec(source="hf://ada/nowhere", conversion="  merge: {source: hf://ada/lora}\n  max_seq_len: 200")
    lacking = machine.convert("--dry-run", gpus=None, software={})
    assert lacking.returncode == 1
    assert "hf://ada/nowhere" in lacking.stderr
    shutil.copy(tmp_path / "model/config.json", tmp_path)
    done = machine.convert("--dry-run", gpus=None, software={})
    assert done.returncode == 0, done.stderr
    assert "planned from config.json beside the spec, without a list of files: " in done.stderr
    _, fetch, merge, _, _, limits, *rest = done.stdout.splitlines()
    assert fetch == "fetch     hf://ada/nowhere: its files are not listed"
    assert merge == "merge     hf://ada/lora: its files are not listed"
    assert "max_seq_len=200" in limits
    assert not any(line.startswith("needs") for line in rest)
    real = machine.convert()
    assert real.returncode == 1
    assert real.stdout == ""
    assert machine.left() == ["config.json"]


@pytest.mark.parametrize("source", ["hf://ada/nowhere", "hf://ada/gated", "file://nowhere"])
def test_a_model_that_is_in_reach_and_not_to_be_had_is_an_error_of_a_dry_run_too(machine, tmp_path, source):
    machine.hub.add_repo("ada/gated", model(), gated=True, token="another")
    machine.spec(source=source)
    shutil.copy(tmp_path / "model/config.json", tmp_path)
    done = machine.convert("--dry-run", gpus=None, software={})
    assert (done.returncode, done.stdout) == (1, "")
    assert "packager.yaml:6:11: " in done.stderr


def test_a_config_beside_the_spec_that_names_code_is_refused_as_the_model_would_be(machine, tmp_path, monkeypatch):
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}))
    machine.spec(source="hf://ada/nowhere")
    monkeypatch.setenv("PACKAGER_OFFLINE", "1")
    done = machine.convert("--dry-run", gpus=None, software={})
    assert done.returncode == 1
    assert "conversion.trusted_code" in done.stderr


FOREIGN = f"run it in {IMAGE} on a machine with 1 a100-40gb: `--dry-run` shows how"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"gpus": None, "software": {}},
            ["error: TensorRT-LLM, which compiles the engine, is not installed here", f"  mend: {FOREIGN}"],
        ),
        (
            {"software": {**SOFTWARE, "tensorrt_llm": "1.2.0"}},
            [
                "error: packager.yaml:2:1: the engine is for TensorRT-LLM 1.2.1; 1.2.0 is installed here",
                f"  mend: {FOREIGN}; or write `engine.version: 1.2.0`",
            ],
        ),
        (
            {"software": {"tensorrt_llm": "1.2.1"}},
            ["error: one TensorRT must be installed here; found is none", f"  mend: {FOREIGN}"],
        ),
        (
            {"gpus": (A10G,)},
            [
                "error: packager.yaml:8:17: the engine is for a100-40gb, of compute capability 8.0; seen here: NVIDIA A10G (8.6)",
                "  mend: compile it where such GPUs are, and let it see those alone (CUDA_VISIBLE_DEVICES)",
            ],
        ),
        (
            {"gpus": ()},
            [
                "error: packager.yaml:8:17: the engine is for a100-40gb, of compute capability 8.0; seen here: none",
                "  mend: compile it where such GPUs are, and let it see those alone (CUDA_VISIBLE_DEVICES)",
            ],
        ),
        (
            {"gpus": (A100, replace(A100, uuid="GPU-2", name="NVIDIA A100-PCIE-40GB"))},
            [
                "error: packager.yaml:8:17: one kind of GPU compiles an engine; seen here: NVIDIA A100-PCIE-40GB (8.0), NVIDIA A100-SXM4-40GB (8.0)",
                "  mend: set CUDA_VISIBLE_DEVICES",
            ],
        ),
        (
            {"gpus": (A100_80GB,)},
            [
                "error: packager.yaml:8:17: an engine that is compiled on NVIDIA A100-SXM4-40GB (8.0) is taken to need its 81920 MiB; a100-40gb has 40 GB",
                "  mend: compile it on a100-40gb, or say what the engine needs, where that is less: --gpu-memory MIB",
            ],
        ),
    ],
)
def test_a_machine_that_cannot_is_told_before_anything_is_fetched(machine, state, said):
    machine.spec()
    assert errors(machine.convert(**state)) == said
    assert machine.left() == []
    assert not (machine.folder / "cache/sha256").exists()


def test_fewer_gpus_than_the_engine_is_split_over(machine):
    machine.spec(engine=", tensor_parallel: 2", count="2")
    assert errors(machine.convert()) == [
        "error: packager.yaml:8:17: the engine is split over 2 GPUs; 1 can be seen here",
        "  mend: give it more GPUs (CUDA_VISIBLE_DEVICES, or the container's `--gpus`)",
    ]


def test_less_memory_than_the_gpu_here_has(machine, tmp_path):
    machine.spec()
    done = machine.convert("--gpu-memory", "39000", gpus=(A100_80GB,))
    assert done.returncode == 0, done.stderr
    assert read_build((tmp_path / "engine/engine.json").read_bytes()).gpu.memory_mib == 39000


def test_an_output_folder_with_files_stays_as_it_is(machine, tmp_path):
    machine.spec()
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/mine").write_text("mine")
    assert errors(machine.convert()) == [
        f"error: {tmp_path}/engine: the output folder is not empty",
        "  mend: choose another folder with --output, or remove this one",
    ]
    assert (tmp_path / "engine/mine").read_text() == "mine"
    (tmp_path / "engine/mine").unlink()
    done = machine.convert()
    assert done.returncode == 0, done.stderr


def test_what_tensorrt_llm_says_when_it_fails_is_repeated(machine, tmp_path):
    machine.spec(source="file://other")
    (tmp_path / "other").mkdir()
    for name, data in model(architectures=["NoSuchForCausalLM"]).items():
        (tmp_path / "other" / name).write_bytes(data)
    done = machine.convert()
    said = errors(done)
    assert said[0] == "error: the step tensorrt_llm ended with exit status 1; the last it said:"
    assert said[-1] == "  mend: mend what it says, then run it again: what was fetched is kept"
    assert "\n  NotImplementedError: Unsupported model architecture: NoSuchForCausalLM\n" in done.stderr
    assert machine.left() == ["other"]


def test_one_that_was_compiled_otherwise_is_told_and_kept(machine, tmp_path):
    machine.spec()
    machine.vendor = Path(shutil.copytree(VENDOR, tmp_path / "site-vendor"))
    source = machine.vendor / "tensorrt_llm/building.py"
    source.write_text(source.read_text().replace("asdict(limits) | {", 'asdict(limits) | {"max_batch_size": 8, '))
    assert errors(machine.convert()) == [
        "error: packager.yaml:9:28: `max_concurrency: 16`, and the engine was compiled for 8 requests at once (max_batch_size)",
        "  mend: write 8 or less; further requests wait in the queue (`serving.max_queue`)",
    ]
    assert read_build((tmp_path / "engine/engine.json").read_bytes()).limits.max_batch_size == 8


def test_killed_in_the_middle_it_leaves_nothing_and_fetches_nothing_again(machine, tmp_path):
    texts = tmp_path / "site-texts"
    os.mkfifo(texts)
    machine.spec(quantization="fp8", conversion=f"  calibration: {{dataset: {texts}}}", weights="hf://ada/l4")
    spec = (tmp_path / "packager.yaml").read_text().replace("a100-40gb", "l4")
    (tmp_path / "packager.yaml").write_text(spec)
    l4 = FakeGpu("GPU-1400", "NVIDIA L4", (8, 9), 23034)
    argv = [sys.executable, "-m", "packager", "convert", ".", "--output", "engine"]
    env = environment(tmp_path / "cache", machine.env(gpus=(l4,)))
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    writer = os.open(texts, os.O_WRONLY)  # opens when the step has begun to read its texts
    process.send_signal(signal.SIGKILL)
    process.communicate()
    poll = select.poll()
    poll.register(writer, 0)
    assert poll.poll(30_000) == [
        (writer, select.POLLERR)
    ]  # nobody reads any more: the step ended with whoever started it
    os.close(writer)
    assert not (tmp_path / "engine").exists()
    (staged, *more) = machine.left()
    assert all(name.startswith(".engine~") for name in (staged, *more))
    asked = len(machine.hub.cdn.requests)
    texts.unlink()
    texts.write_text("one two three")
    done = machine.convert(gpus=(l4,))
    assert done.returncode == 0, done.stderr
    assert len(machine.hub.cdn.requests) == asked
    assert read_build((tmp_path / "engine/engine.json").read_bytes()).quant_algo == "FP8"
    assert machine.left() == ["engine"]


@pytest.mark.parametrize(
    ("changed", "argv", "said"),
    [
        (
            {"weights": "https://example.com/engine/"},
            ["--upload"],
            [
                "error: 'https://example.com/engine/' is no address to upload to",
                "  mend: use hf://OWNER/NAME[/FOLDER], s3://BUCKET/PREFIX or file:///PATH",
            ],
        ),
        (
            {"weights": "hf://ada/mistral-trt, revision: " + "a" * 40},
            ["--upload"],
            [
                "error: packager.yaml:3:51: `weights.revision` is a commit, and an upload makes another one",
                "  mend: remove it, or name a branch; the lock pins the commit",
            ],
        ),
        (
            {"quantization": "gptq"},
            [],
            [
                "error: packager.yaml:4:15: TensorRT-LLM's LLM does not quantize to gptq",
                "  mend: write one of: none, int8, int4, awq, fp8",
            ],
        ),
        (
            {"quantization": "fp8"},
            [],
            [
                "error: packager.yaml:4:15: `quantization: fp8` on tensorrt_llm_engine needs compute capability 8.9 or newer; a100-40gb has 8.0",
                "  mend: write `quantization: int8`, or use a newer GPU, such as l4, h100 or b200",
            ],
        ),
    ],
)
def test_what_cannot_be_is_told_first(machine, changed, argv, said):
    machine.spec(**changed)
    assert errors(machine.convert(*argv, gpus=None, software={})) == said


def test_a_spec_without_the_section(machine):
    machine.spec()
    spec = machine.folder / "packager.yaml"
    text = spec.read_text()
    spec.write_text(text.replace("conversion:\n  source: hf://ada/mistral\n", ""))
    assert errors(machine.convert()) == [
        "error: packager.yaml:3:1: nothing says of what the weights are made",
        "  mend: add `conversion: {source: hf://OWNER/NAME}`, the model in the form of transformers",
    ]
