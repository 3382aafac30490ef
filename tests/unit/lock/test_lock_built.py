"""Compiled engines and vendors' images against the spec and the base: what is refused, with which words, and what passes."""

import json
from dataclasses import replace

import pytest
from fakes.compiled import description, put, write_engine
from fakes.locks import FACTS

from packager.digest import hash_file
from packager.errors import SpecError
from packager.lock.built import check_built, check_vendor, facts_of_built
from packager.lock.check import check
from packager.lock.gates import check_weights
from packager.lock.weights import lock_weights
from packager.spec.load import load_spec

BASE = "image: {base: {kind: layout, path: base}}"
SERVING = "serving: {max_concurrency: 16}"
IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"
MEND_MORE = "further requests wait in the queue (`serving.max_queue`)"


@pytest.fixture
def spec(tmp_path):
    """A spec file of a compiled engine on one A100 of 40 GB, but for what is given."""

    def write(engine="", *, kind="tensorrt_llm_engine", gpu="a100-40gb", count=1, lines=(BASE, SERVING), more=()):
        text = ["name: hello", f"engine: {{kind: {kind}{', ' if engine else ''}{engine}}}"]
        text += ["weights: {source: 'file://model'}", f"hardware: {{gpu: {gpu}, count: {count}}}", *lines, *more]
        (tmp_path / "packager.yaml").write_text("\n".join(text) + "\n")
        return load_spec(tmp_path)

    return write


def refused(act) -> list[tuple[str, str]]:
    try:
        act()
    except SpecError as error:
        return [(problem.what, problem.mend) for problem in error.problems if problem.where]
    return []


def built(world_size=1, **changed):
    value = description(world_size)
    for place, one in changed.items():
        put(value, place.replace("__", "."), one)
    return value


def base(**installed):
    return replace(FACTS, installed={name.replace("_", "-"): version for name, version in installed.items()})


class TestSpec:
    def test_it_passes(self, spec):
        check(spec())
        check(spec(kind="tensorrt_llm", gpu="h100"))

    @pytest.mark.parametrize("kind", ["tensorrt_llm_engine", "tensorrt_llm"])
    @pytest.mark.parametrize("lines", [(), ("image: {base: {kind: debian}}",)])
    def test_no_vendors_image(self, spec, kind, lines):
        assert refused(lambda: check(spec(kind=kind, lines=lines))) == [
            (
                f"the engine {kind} comes in NVIDIA's images alone: tensorrt-llm is on no package index",
                f"write `image: {{base: {{kind: registry, image: {IMAGE}}}}}`; PACKAGER_REGISTRY_MIRRORS names a mirror",
            )
        ]

    def test_a_version_that_compiles_nothing(self, spec):
        check(spec("version: 1.2.0"))
        check(spec("version: 1.3.0", kind="tensorrt_llm"))
        assert refused(lambda: check(spec("version: 1.3.0"))) == [
            (
                "the engine tensorrt_llm_engine has no version 1.3.0",
                "write 1.2.1; it is the last TensorRT-LLM that has compiled engines: `engine.kind: tensorrt_llm` needs none",
            )
        ]

    def test_formats_that_newer_gpus_have_not(self, spec):
        check(spec(gpu="h200", more=("quantization: int8",)))
        (problem,) = refused(lambda: check(spec(gpu="b200", more=("quantization: int8",))))
        assert problem == (
            "`quantization: int8` on tensorrt_llm_engine runs on compute capabilities below 10.0; b200 has 10.0",
            "write `quantization: fp8`, or use an older GPU, such as l4, l40 or l40s",
        )
        (problem,) = refused(lambda: check(spec("kv_cache: int8", gpu="b200")))
        assert problem[1] == "write `kv_cache: fp8`, or use an older GPU, such as l4, l40 or l40s"

    def test_fp8_before_there_was_any(self, spec):
        (problem,) = refused(lambda: check(spec(more=("quantization: fp8",))))
        assert problem[0] == (
            "`quantization: fp8` on tensorrt_llm_engine needs compute capability 8.9 or newer; a100-40gb has 8.0"
        )

    def test_no_gpu(self, spec, tmp_path):
        lines = spec().path.read_text().splitlines(keepends=True)
        (tmp_path / "packager.yaml").write_text("".join(line for line in lines if "hardware" not in line))
        assert refused(lambda: check(load_spec(tmp_path))) == [
            ("the engine tensorrt_llm_engine needs a GPU", "name one in `hardware.gpu`, such as l4, h100 or b200")
        ]


class TestBuilt:
    def test_it_passes(self, spec):
        check_built(spec(), built())
        check_built(spec("context_length: 4096, kv_cache: fp8"), built(kv_cache_quant_algo="FP8"))
        check_built(spec("tensor_parallel: 2", count=2), built(2))
        check_built(spec(gpu="a100-80gb"), built())
        check_built(spec(), None)

    @pytest.mark.parametrize(
        ("asked", "changed", "what", "mend"),
        [
            (
                {"engine": "version: 1.2.0"},
                {},
                "the engine was compiled with TensorRT-LLM 1.2.1, and the package is for 1.2.0",
                "write `engine.version: 1.2.1`",
            ),
            (
                {},
                {"world_size": 2},
                "`tensor_parallel: 1`, and the engine was compiled for 2 (engine.json: mapping)",
                "write `tensor_parallel: 2` and `hardware.count: 2`",
            ),
            (
                {"engine": "pipeline_parallel: 2", "count": 2},
                {},
                "`pipeline_parallel: 2`, and the engine was compiled for 1 (engine.json: mapping)",
                "write `pipeline_parallel: 1`",
            ),
            (
                {},
                {"world_size": 2, "mapping__tp": 1, "mapping__cp": 2},
                "the engine was compiled for context parallel 2, which packager does not serve",
                "compile it with `cp_size` 1",
            ),
            (
                {"gpu": "h200"},
                {},
                "the engine was compiled for compute capability 8.0 (NVIDIA A100-SXM4-40GB); h200 has 9.0",
                "name one that has it: a100-40gb, a100-80gb or a30, or compile the engine again on h200",
            ),
            (
                {"gpu": "a30"},
                {},
                "the engine needs a GPU with 40960 MiB of memory (NVIDIA A100-SXM4-40GB); a30 has 24 GB",
                (
                    "name a larger GPU, or describe the engine again with what it needs: "
                    "`packager engine describe --gpu-memory`"
                ),
            ),
            (
                {"lines": (BASE,)},
                {},
                "`max_concurrency: 32`, and the engine was compiled for 16 requests at once (max_batch_size)",
                f"write 16 or less; {MEND_MORE}",
            ),
            (
                {"lines": (BASE, "serving: {server: triton, triton: ensemble, max_concurrency: 8}")},
                {},
                "`max_concurrency: 8`, and the engine was compiled for 16 requests at once (max_batch_size)",
                "write 16: TensorRT-LLM's own backend for Triton runs as many as were compiled in",
            ),
            (
                {"engine": "context_length: 5000"},
                {},
                "`context_length: 5000`, and the engine was compiled for 4096 tokens (max_seq_len)",
                "write 4096 or less, or leave it out",
            ),
            (
                {"engine": "kv_cache: int8"},
                {},
                "`kv_cache: int8`, and the engine was compiled with none",
                "write `kv_cache: auto`, which takes it as it is, or compile it again",
            ),
        ],
    )
    def test_refused(self, spec, asked, changed, what, mend):
        assert refused(lambda: check_built(spec(**asked), built(**changed))) == [(what, mend)]

    def test_quantization_is_what_was_compiled(self, spec):
        def checked(word, algorithm):
            model = facts_of_built(built(quant_algo=algorithm))
            return refused(lambda: check_weights(spec(more=(f"quantization: {word}",)), model, print))

        assert checked("int8", "W8A16") == checked("awq", "W4A16_AWQ") == checked("none", "W8A16") == []
        assert [what for what, _ in checked("int8", None)] == [
            "`quantization: int8` is for weights that are int8, and these are not quantized"
        ]
        (problem,) = checked("int4", "W8A16")
        assert problem[1] == "write `quantization: int8`"


class TestBase:
    def test_it_passes(self, spec):
        check_vendor(spec(), base(tensorrt_llm="1.2.1", tensorrt="10.14.1.48"), built())
        check_vendor(spec(), base(tensorrt_llm="1.2.1", tensorrt="10.14.1.48.post1"), built())
        check_vendor(spec(kind="tensorrt_llm"), base(tensorrt_llm="1.2.1+cu13"), None)
        check_vendor(spec(kind="transformers"), base(), None)

    @pytest.mark.parametrize(
        ("installed", "what", "mend"),
        [
            (
                {},
                "the base has no tensorrt-llm",
                f"take NVIDIA's image, such as {IMAGE}, or one made from it",
            ),
            (
                {"tensorrt_llm": "1.2.0"},
                "the base has tensorrt-llm 1.2.0; the package is for 1.2.1",
                "take a base with 1.2.1, or write `engine.version: 1.2.0`",
            ),
            (
                {"tensorrt_llm": "1.2.1", "tensorrt": "10.13.3.9"},
                "the base has TensorRT 10.13.3.9; the engine was compiled with 10.14.1.48",
                "take the image that compiled it: registry.example.com/tensorrt-llm@sha256:" + "0" * 64,
            ),
        ],
    )
    def test_refused(self, spec, installed, what, mend):
        assert refused(lambda: check_vendor(spec(), base(**installed), built())) == [(what, mend)]


class TestLock:
    """From a folder of an engine to its lock."""

    def test_an_engine_is_locked(self, spec, tmp_path, tools):
        self.write(tmp_path)
        locked, _ = lock_weights(spec(), tools)
        assert locked.compiled["gpu"]["sm"] == "8.0"
        assert locked.model.dtype == "bfloat16"
        assert {one.path for one in locked.files} == {"config.json", "engine.json", "rank0.engine", "tokenizer.json"}

    def test_what_the_spec_says_otherwise_is_refused(self, spec, tmp_path, tools):
        self.write(tmp_path)
        problems = refused(lambda: lock_weights(spec("context_length: 9000", gpu="h200"), tools))
        assert len(problems) == 2

    def test_a_folder_without_a_tokenizer(self, spec, tmp_path, tools):
        folder = self.write(tmp_path)
        (folder / "tokenizer.json").unlink()
        ((what, _),) = refused(lambda: lock_weights(spec(), tools))
        assert what.endswith("these weights have no tokenizer.json")

    def test_weights_that_nothing_compiled(self, spec, tmp_path, tools):
        folder = tmp_path / "model"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (folder / name).write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x")
        ((what, _),) = refused(lambda: lock_weights(spec(), tools))
        assert what.endswith("these weights have no .engine file")

    @pytest.mark.parametrize(
        ("algorithm", "gpu", "passes"), [("FP8", "h100", True), ("NVFP4", "h100", False), (None, "h100", True)]
    )
    def test_modelopt_says_it_in_a_file_of_its_own(self, spec, tmp_path, tools, algorithm, gpu, passes):
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
        for name in ("config.json", "tokenizer.json"):
            (folder / name).write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x")
        problems = refused(lambda: lock_weights(spec(kind="tensorrt_llm", gpu=gpu), tools))
        needs = "tensorrt_llm with weights that are modelopt:nvfp4 needs compute capability 10.0 or newer; h100 has 9.0"
        assert [what for what, _ in problems] == ([] if passes else [needs])
        (folder / "hf_quant_config.json").write_text("[]")
        ((what, _),) = refused(lambda: lock_weights(spec(kind="tensorrt_llm", gpu=gpu), tools))
        assert what == "hf_quant_config.json does not say how the weights are quantized"

    @staticmethod
    def write(tmp_path):
        folder = write_engine(tmp_path / "model")
        value = built()
        hashes = {path.name: hash_file(path) for path in folder.iterdir()}
        value["files"] = {name: {"sha256": sha256, "size": size} for name, (sha256, size) in hashes.items()}
        (folder / "engine.json").write_text(json.dumps(value))
        return folder
