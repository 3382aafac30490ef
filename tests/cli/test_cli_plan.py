"""`packager plan`: what it reads, what it prints, and when it refuses."""

import json
import shutil
from hashlib import sha256

import pytest
from fakes.cli import ROOT
from fakes.compiled import description
from fakes.configs import CONFIGS, COUNTS
from fakes.hub import Hub
from fakes.locks import make_lock

from packager.cli.app import main
from packager.lock.lockfile import WeightsLock
from packager.manifest import WeightsFile
from packager.spec.load import load_spec
from packager.store import Store

HUB = "hf://mistralai/Mistral-7B-Instruct-v0.2"
TOTAL = 2 * COUNTS["mistral-7b-v0.2"]["parameters"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`project(SPEC, CONFIG)`: a spec of vLLM with weights of the hub, and a config.json beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers: what is asked fails

    def write(more="", config="mistral-7b-v0.2", source=HUB, engine="{kind: vllm}"):
        text = f"name: m\nengine: {engine}\nweights: {{source: '{source}'}}\n{more}\n"
        (tmp_path / "packager.yaml").write_text(text)
        if config:
            shutil.copy(CONFIGS / f"{config}.json", tmp_path / "config.json")
        return tmp_path

    return write


def planned(capsys, *options, code=0):
    assert main(["plan", "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


def test_the_table(project, capsys):
    project("hardware: {gpu: a100-40gb}")
    assert main(["plan"]) == 0
    said = capsys.readouterr()
    assert said.out == (
        "m: what vllm takes of the GPU\n"
        "  weights       13.49 GiB  7.24 billion parameters, bfloat16\n"
        "  KV cache       4.00 GiB  1 request of 32,768 tokens, 131,072 bytes a token\n"
        "  workspace      1.49 GiB  an allowance: CUDA, activations, logits, graphs\n"
        "  total         18.97 GiB\n"
        "  a100-40gb     39.38 GiB  one, of which 92% are the engine's\n"
        "fits: 18.00 GiB to spare, 180,232 tokens of cache fit\n"
    )
    assert "5 of 32 requests (`serving.max_concurrency`) run at once" in said.err


def test_what_does_not_fit_is_refused_with_the_smallest_change(project, capsys):
    project("hardware: {gpu: a10g}")
    assert main(["plan", "--concurrency", "8"]) == 1
    said = capsys.readouterr()
    assert "KV cache      32.00 GiB  8 requests of 32,768 tokens" in said.out
    assert "fits:" not in said.out
    assert said.err.startswith("error: packager.yaml:4:17: the model does not fit: a10g lacks 25.")
    assert "mend: write `serving.max_concurrency: 1`; or `engine.context_length: " in said.err
    assert "`hardware.gpu: " in said.err


def test_the_change_it_names_makes_it_fit(project, capsys):
    project("hardware: {gpu: a10g}")
    changes = planned(capsys, "--concurrency", "4", code=1)["changes"]
    words = {one["kind"]: one["words"].strip("`").removeprefix("engine.") for one in changes}
    project("hardware: {gpu: a10g}", engine="{kind: vllm, " + words["context"] + "}")
    assert planned(capsys, "--concurrency", "4")["fits"] is True


def test_json(project, capsys):
    project("hardware: {gpu: a100-80gb, count: 2}", config="mixtral-8x7b", engine="{kind: vllm, tensor_parallel: 2}")
    found = planned(capsys)
    assert found["parameters"] == COUNTS["mixtral-8x7b"]["parameters"]
    assert (found["gpu"], found["gpus"], found["tensor_parallel"]) == ("a100-80gb", 2, 2)
    assert (found["context"], found["requests"], found["fits"], found["changes"]) == (32768, 1, True, [])
    sizes = found["bytes"]
    assert sizes["total"] == sizes["weights"] + sizes["cache"] + sizes["workspace"]
    assert (found["files"], found["files_from"]) == (None, "")


def test_without_a_gpu_nothing_is_compared(project, capsys):
    project()
    assert planned(capsys)["fits"] is None
    assert main(["plan"]) == 0
    assert "no GPU is named" in capsys.readouterr().err


def test_an_engine_without_weights(tmp_path, capsys):
    (tmp_path / "packager.yaml").write_text("name: m\nengine: {kind: echo}\n")
    assert main(["plan", str(tmp_path)]) == 1
    assert "has no weights, so there is nothing to size" in capsys.readouterr().err


def test_a_gguf_file_of_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "hello", "hello", ignore=shutil.ignore_patterns("packager.lock"))
    assert main(["plan", "hello", "--json", "--offline"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"]["weights"] == found["files"] == 4657952
    assert found["bytes"]["token"] == 2 * 3 * 2 * 64 * 2


def test_a_spec_that_the_engine_cannot_do_is_refused_first(project, capsys):
    project("hardware: {gpu: p4}")
    assert main(["plan"]) == 1
    assert "needs compute capability" in capsys.readouterr().err


class TestCompiled:
    """Engines of TensorRT-LLM."""

    BASE = "image: {base: {kind: registry, image: 'nvcr.io/nvidia/tensorrt-llm/release:1.2.1'}}"
    ENGINE = "{kind: tensorrt_llm_engine}"

    def test_the_table(self, project, capsys):
        project(f"hardware: {{gpu: a100-40gb}}\nquantization: int8\n{self.BASE}", engine=self.ENGINE)
        assert main(["plan"]) == 0
        assert capsys.readouterr().out == (
            "m: what tensorrt_llm_engine takes of the GPU\n"
            "  weights        6.99 GiB  7.24 billion parameters, 8.00 bits\n"
            "  KV cache       4.00 GiB  1 request of 32,768 tokens, 131,072 bytes a token\n"
            "  workspace      1.67 GiB  an allowance: CUDA, activations, logits, graphs\n"
            "  total         12.66 GiB\n"
            "  a100-40gb     39.38 GiB  one; 90% of what is free is for the cache\n"
            "fits: 23.65 GiB to spare, 226,479 tokens of cache fit\n"
        )

    def test_what_is_compiled_in_is_said_where_it_does_not_fit(self, project, capsys):
        project(f"hardware: {{gpu: a10g}}\n{self.BASE}", engine=self.ENGINE)
        assert main(["plan", "--concurrency", "4"]) == 1
        said = capsys.readouterr().err
        assert "write `serving.max_concurrency: 1`; or `engine.context_length: " in said
        assert said.endswith("; what is neither fewer requests nor a shorter context has to be compiled in\n")
        project("hardware: {gpu: a10g}")
        assert main(["plan", "--concurrency", "4"]) == 1
        assert "compiled in" not in capsys.readouterr().err

    def test_its_files_are_not_those_that_it_was_compiled_of(self, project, capsys):
        folder = project(f"hardware: {{gpu: a100-40gb}}\n{self.BASE}", engine=self.ENGINE)
        index = {"metadata": {"total_size": TOTAL + 1000}, "weight_map": {}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert planned(capsys)["files"] is None

    def test_limits_and_size_of_a_locked_engine(self, project, capsys):
        serving = "serving: {max_concurrency: 16}"
        folder = project(f"hardware: {{gpu: a100-40gb}}\n{serving}\n{self.BASE}", engine=self.ENGINE)
        files = (WeightsFile("config.json", 10, "0" * 64), WeightsFile("rank0.engine", 7 * 10**9, "1" * 64))
        lock = make_lock(load_spec(folder).spec, weights=WeightsLock(HUB, "", files, compiled=description()))
        (folder / "packager.lock").write_bytes(lock.to_bytes())
        found = planned(capsys)
        assert (found["files"], found["bytes"]["weights"]) == (7 * 10**9, 7 * 10**9)
        assert found["context"] == description()["limits"]["max_seq_len"]
        assert main(["plan", "--concurrency", "400"]) == 1
        said = capsys.readouterr().err
        assert "error: --concurrency: 400 requests at once are more than what is compiled in, which is 16\n" in said

    def test_the_pytorch_engine(self, project, capsys):
        project(f"hardware: {{gpu: h100}}\n{self.BASE}", engine="{kind: tensorrt_llm}")
        assert planned(capsys)["bytes"]["weights"] == TOTAL


class TestSources:
    def test_nothing_says_the_shapes(self, project, capsys):
        project(config=None)
        assert main(["plan", "--offline"]) == 1
        said = capsys.readouterr().err
        assert "nothing says what shapes the model has" in said
        assert "put the config.json of the transformers model beside the spec" in said

    def test_what_lies_beside_the_spec_asks_nobody(self, project, capsys):
        project()
        found = planned(capsys)  # without --offline; the hub would not answer
        assert found["config_from"].endswith("/config.json")
        assert found["bytes"]["weights"] == TOTAL

    def test_an_index_beside_it_says_the_size(self, project, capsys):
        folder = project()
        index = {"metadata": {"total_size": TOTAL + 1000}, "weight_map": {}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        found = planned(capsys)
        assert (found["files"], found["files_from"]) == (TOTAL + 1000, "model.safetensors.index.json")
        assert found["bytes"]["weights"] == TOTAL + 1000

    @pytest.mark.parametrize("metadata", [None, [], "large", {"total_size": -1}, {"total_size": "1"}, {}])
    def test_an_index_that_says_no_size(self, project, capsys, metadata):
        (project() / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata}))
        found = planned(capsys)
        assert (found["files"], found["bytes"]["weights"]) == (None, TOTAL)

    def test_weights_of_this_machine(self, project, capsys):
        folder = project(config=None, source="file://model")
        (folder / "model").mkdir()
        shutil.copy(CONFIGS / "mistral-7b-v0.2.json", folder / "model" / "config.json")
        for name in (
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "consolidated.safetensors",
        ):
            (folder / "model" / name).write_bytes(bytes(5000))
        found = planned(capsys, "--offline")
        assert (found["config_from"], found["files"]) == ("the weights' config.json", 10000)

    def test_the_lock_and_the_store(self, project, tmp_path, capsys):
        folder = project(config=None)
        config = (CONFIGS / "mistral-7b-v0.2.json").read_bytes()
        spec = load_spec(folder).spec
        Store(tmp_path / "cache").put([config], name="config.json")
        files = (
            WeightsFile("config.json", len(config), sha256(config).hexdigest()),
            WeightsFile("model.safetensors", TOTAL + 77, "0" * 64),
        )
        lock = make_lock(spec, weights=WeightsLock(HUB, "", files))
        (folder / "packager.lock").write_bytes(lock.to_bytes())
        found = planned(capsys, "--offline")
        assert (found["config_from"], found["files"]) == ("the lock's config.json", TOTAL + 77)
        # A lock that answers for other weights says nothing of these.
        project(config=None, source="hf://mistralai/Another")
        assert main(["plan", "--offline"]) == 1

    def test_the_hub(self, project, monkeypatch, capsys):
        files = {"config.json": (CONFIGS / "mistral-7b-v0.2.json").read_bytes(), "model.safetensors": bytes(4000)}
        with Hub() as hub:
            hub.add_repo("ada/model", files, lfs=("*.safetensors",))
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            project(config=None, source="hf://ada/model")
            found = planned(capsys)
            assert (found["config_from"], found["files"]) == ("the weights' config.json", 4000)
            assert main(["plan", "--offline"]) == 1

    def test_the_model_that_an_engine_will_be_compiled_of(self, project, tmp_path, monkeypatch, capsys):
        """Where the engine goes there is nothing yet. What is locked is there."""
        files = {"config.json": (CONFIGS / "mistral-7b-v0.2.json").read_bytes(), "model.safetensors": bytes(4000)}
        with Hub() as hub:
            hub.add_repo("ada/model", files, lfs=("*.safetensors",))
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            more = f"conversion: {{source: 'hf://ada/model'}}\nhardware: {{gpu: a100-40gb}}\n{TestCompiled.BASE}"
            folder = project(more, config=None, source="hf://ada/not-yet", engine=TestCompiled.ENGINE)
            found = planned(capsys)
            assert (found["config_from"], found["files"], found["context"]) == ("conversion's config.json", None, 32768)
            assert found["bytes"]["weights"] == TOTAL
            project(more.replace("ada/model", "ada/other"), config=None, engine=TestCompiled.ENGINE)
            assert main(["plan"]) == 1
            assert "packager.yaml:4:22: " in capsys.readouterr().err
            lock = make_lock(load_spec(folder).spec, weights=WeightsLock(HUB, "", ()))
            (folder / "packager.lock").write_bytes(lock.to_bytes())
            assert main(["plan"]) == 1
            assert "packager.yaml:3:19: " in capsys.readouterr().err

    def test_an_engine_of_this_machine_before_the_model_it_was_compiled_of(self, project, capsys):
        more = f"conversion: {{source: 'hf://ada/model'}}\nhardware: {{gpu: a100-40gb}}\n{TestCompiled.BASE}"
        folder = project(more, config=None, source="file://engine", engine=TestCompiled.ENGINE)
        (folder / "engine").mkdir()
        shutil.copy(CONFIGS / "mistral-7b-v0.2.json", folder / "engine" / "config.json")
        (folder / "engine" / "rank0.engine").write_bytes(bytes(5000))
        found = planned(capsys)
        assert (found["config_from"], found["files"]) == ("the weights' config.json", 5000)

    def test_a_configuration_that_is_none(self, project, capsys):
        folder = project()
        for text, said in (("[]", "this is JSON, but no configuration"), ("[" * 100_000, "this is not JSON: ")):
            (folder / "config.json").write_text(text)
            assert main(["plan"]) == 1
            assert said in capsys.readouterr().err
