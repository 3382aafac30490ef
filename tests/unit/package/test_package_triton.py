"""The model repository of a package for Triton, read by Triton's own protobuf messages."""

import ast
import json
from typing import Any

import pytest
from fakes.compiled import description
from fakes.locks import INGREDIENTS, make_lock, make_spec
from google.protobuf import text_format as protobuf
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from packager.digest import canonical_json, sha256_hex
from packager.errors import PackageError
from packager.image.plan import plan_image
from packager.lock.lockfile import WeightsLock
from packager.manifest import Manifest, WeightsFile
from packager.package.pbtxt import Word, text_format
from packager.package.plan import make_manifest, plan_package
from packager.package.triton import example, models, repository, serve_command
from packager.runtime.server.triton import INPUTS, OUTPUTS, model_config
from packager.runtime.server.triton_llmapi import NEVER, LlmapiModel

SERVING = {"server": "triton", "port": 8000, "drain_seconds": 20}
BASE = {"kind": "registry", "image": "registry.example.com/tritonserver:26.07-py3"}
FIELDS = {"serving": SERVING, "image": {"base": BASE}}


def make(**fields: object) -> Manifest:
    spec = make_spec(**FIELDS | fields)
    return make_manifest(spec, make_lock(spec), "1.2.3")


def config(manifest: Manifest) -> ModelConfig:
    data = repository(manifest)[f"triton/{manifest.name}/config.pbtxt"]
    return protobuf.Parse(data.decode(), ModelConfig())


class TestConfig:
    def test_what_triton_reads(self):
        found = config(make())
        assert (found.name, found.backend, found.max_batch_size) == ("hello", "python", 0)
        assert found.model_transaction_policy.decoupled
        assert [(one.count, one.kind) for one in found.instance_group] == [(1, ModelInstanceGroup.KIND_MODEL)]

    def test_its_tensors_are_those_of_the_runtime(self):
        found, said = config(make()), model_config("hello", "echo")
        for mine, theirs, table in ((found.input, said["input"], INPUTS), (found.output, said["output"], OUTPUTS)):
            read = [protobuf.MessageToString(one) for one in mine]
            assert read == [protobuf.MessageToString(_message(type(mine[0])(), one)) for one in theirs]
            assert [one.name for one in mine] == list(table)

    def test_every_name_of_a_model(self):
        assert config(make(name="qwen1.5-1.8b_chat")).name == "qwen1.5-1.8b_chat"


def _message(message, value):
    kinds = {"TYPE_STRING", "TYPE_BOOL", "TYPE_UINT32"}
    plain = {name: Word(one) if isinstance(one, str) and one in kinds else one for name, one in value.items()}
    return protobuf.Parse(text_format(plain), message)


@pytest.mark.parametrize(
    "text", ['say "hi"', "back\\slash", "line\nbreak", "ünï 😀", "\x01\x7f", "it's", "${left}", ""]
)
def test_strings_are_read_as_they_were(text):
    written = text_format({"name": text, "parameters": [{"key": "k", "value": {"string_value": text}}]})
    found = protobuf.Parse(written, ModelConfig())
    assert (found.name, found.parameters["k"].string_value) == (text, text)


def test_what_is_no_field_is_seen():
    with pytest.raises(protobuf.ParseError):
        protobuf.Parse(text_format({"backnd": "python"}), ModelConfig())


class TestPackage:
    def test_the_repository_is_among_its_files(self):
        spec = make_spec(**FIELDS)
        plan = plan_package(spec, make_lock(spec), INGREDIENTS)
        assert {path for path in plan.files if path.startswith("triton/")} == {
            "triton/hello/config.pbtxt",
            "triton/hello/1/model.py",
        }
        assert b"triton/hello/1/model.py" in plan.files["files.sha256"]
        ast.parse(plan.files["triton/hello/1/model.py"])

    def test_no_other_server_has_it(self):
        spec = make_spec()
        assert not any(path.startswith("triton/") for path in plan_package(spec, make_lock(spec), INGREDIENTS).files)

    def test_image_and_dockerfile_start_it(self):
        spec = make_spec(**FIELDS)
        lock = make_lock(spec)
        files = plan_package(spec, lock, INGREDIENTS).files
        image = plan_image(make(), lock, tuple(files))
        assert image.config.entrypoint == serve_command(make(), "python3", "/app")
        assert image.config.exposed_ports == ("8000/tcp", "8001/tcp", "8002/tcp")
        dockerfile = files["Dockerfile"].decode()
        assert json.loads(dockerfile.rpartition("ENTRYPOINT ")[2]) == list(serve_command(make(), "python3", "/app"))
        assert "EXPOSE 8000 8001 8002\n" in dockerfile

    def test_its_readme_says_how_it_is_run(self):
        spec = make_spec(**FIELDS)
        readme = plan_package(spec, make_lock(spec), INGREDIENTS).files["README.md"].decode()
        assert "localhost:8000/v2/models/hello/generate_stream" in readme
        assert "bentoml" not in readme


def test_the_command():
    command = serve_command(make(), "python3", "/app")
    assert command[:2] == ("tritonserver", "--model-repository=/app/triton")
    for option in ("--http-port=8000", "--grpc-port=8001", "--metrics-port=8002", "--exit-timeout-secs=30"):
        assert option in command
    assert "--model-control-mode=none" in command
    assert "--backend-config=python,shm-default-byte-size=1048576" in command


COMPILED = {
    "engine": {"kind": "tensorrt_llm_engine", "gpu_memory": 0.8, "prefix_caching": False},
    "weights": {"source": "hf://ada/engine", "ship": "on_load"},
    "serving": {**SERVING, "triton": "ensemble", "max_concurrency": 16, "max_queue": 64},
    "hardware": {"gpu": "a100-40gb"},
}
PYTORCH = {
    "engine": {"kind": "tensorrt_llm"},
    "weights": {"source": "hf://ada/model", "ship": "on_load"},
    "serving": {**SERVING, "triton": "llmapi"},
    "hardware": {"gpu": "a100-40gb"},
}


def locked(fields: Any, compiled: Any = None) -> tuple[Any, Any]:
    """A spec and its lock, whose weights are a compiled engine of this description."""
    spec = make_spec(image={"base": BASE}, **fields)
    files = (WeightsFile("config.json", 1, "c" * 64), WeightsFile("rank0.engine", 100, "a" * 64))
    return spec, make_lock(spec, weights=WeightsLock("hf://ada/engine", "b" * 40, files, compiled=compiled))


def configs(spec: Any, lock: Any) -> dict[str, ModelConfig]:
    """Every model's configuration in the package, as Triton's own protobuf reads it: strictly."""
    files = plan_package(spec, lock, INGREDIENTS).files
    found = {path: data.decode() for path, data in files.items() if path.endswith("/config.pbtxt")}
    assert not [path for path, text in found.items() if "${" in text]
    return {path.split("/")[1]: protobuf.Parse(text, ModelConfig()) for path, text in found.items()}


class TestEnsemble:
    @pytest.fixture
    def found(self) -> dict[str, ModelConfig]:
        return configs(*locked(COMPILED, description()))

    def test_five_models(self, found):
        assert {name: config.backend or config.platform for name, config in found.items()} == {
            "preprocessing": "python",
            "tensorrt_llm": "tensorrtllm",
            "postprocessing": "python",
            "tensorrt_llm_bls": "python",
            "ensemble": "ensemble",
        }
        assert all(config.name == name for name, config in found.items())
        sizes = {name: config.max_batch_size for name, config in found.items()}
        assert sizes == dict.fromkeys(found, 16) | {"tensorrt_llm_bls": 1}
        assert [one.count for one in found["tensorrt_llm_bls"].instance_group] == [16]
        decoupled = {name for name, config in found.items() if config.model_transaction_policy.decoupled}
        assert decoupled == {"tensorrt_llm", "tensorrt_llm_bls"}

    def test_the_values_of_spec_and_engine(self, found):
        engine = found["tensorrt_llm"]
        said = {name: one.string_value for name, one in engine.parameters.items()}
        assert said["kv_cache_free_gpu_mem_fraction"] == "0.8"
        assert said["enable_kv_cache_reuse"] == "false"
        assert (said["max_beam_width"], said["gpt_model_type"]) == ("1", "inflight_fused_batching")
        assert said["executor_worker_path"] == "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
        assert found["tensorrt_llm_bls"].dynamic_batching.default_queue_policy.max_queue_size == 16 + 64
        for name in ("tensorrt_llm", "preprocessing"):
            assert found[name].dynamic_batching.default_queue_policy.max_queue_size == 16 + 64
            assert list(found[name].dynamic_batching.preferred_batch_size) == [16]

    def test_more_of_other_engines(self):
        build = description(2)
        build["limits"] |= {"max_batch_size": 3, "max_beam_width": 4}
        fields = COMPILED | {"serving": COMPILED["serving"] | {"max_concurrency": 3}}
        found = configs(*locked(fields, build))
        assert {config.max_batch_size for name, config in found.items() if name != "tensorrt_llm_bls"} == {3}
        assert found["tensorrt_llm_bls"].instance_group[0].count == 3
        assert found["tensorrt_llm"].parameters["max_beam_width"].string_value == "4"

    def test_names_types_and_wiring_are_nvidias(self, found):
        """The digest was made of what had been compared, field by field, with NVIDIA's templates."""
        seen = {
            name: [
                *sorted(f"in {protobuf.MessageToString(one, as_one_line=True)}" for one in config.input),
                *sorted(f"out {protobuf.MessageToString(one, as_one_line=True)}" for one in config.output),
                *sorted(config.parameters),
                *(f"{step.model_name} {sorted(step.input_map.items())}" for step in config.ensemble_scheduling.step),
                *(f"{step.model_name} {sorted(step.output_map.items())}" for step in config.ensemble_scheduling.step),
            ]
            for name, config in found.items()
        }
        assert sha256_hex(canonical_json(seen))[:16] == "d2db2b871bdd3845"

    def test_every_step_of_the_ensemble_has_what_it_names(self, found):
        ensemble, between = found["ensemble"], set()
        for step in ensemble.ensemble_scheduling.step:
            inputs = {one.name for one in found[step.model_name].input}
            assert step.input_map.keys() <= inputs
            assert {one.name for one in found[step.model_name].input if not one.optional} <= step.input_map.keys()
            assert step.output_map.keys() <= {one.name for one in found[step.model_name].output}
            assert set(step.input_map.values()) <= between | {one.name for one in ensemble.input}
            between |= set(step.output_map.values())
        assert {one.name for one in ensemble.output} <= between

    @pytest.mark.parametrize("compiled", [None, {"schema": 1}])
    def test_an_engine_without_its_description(self, compiled):
        with pytest.raises(PackageError, match="engine's description"):
            plan_package(*locked(COMPILED, compiled), INGREDIENTS)

    def test_it_starts_with_a_step_of_ours(self):
        spec, lock = locked(COMPILED, description())
        manifest = make_manifest(spec, lock, "1.2.3")
        files = plan_package(spec, lock, INGREDIENTS).files
        start = ("-m", "packager_runtime.runtime.server.triton_start", "/app", "tritonserver")
        entrypoint = plan_image(manifest, lock, tuple(files)).config.entrypoint
        assert entrypoint[:5] == ("/usr/bin/python3.11", *start)
        assert json.loads(files["Dockerfile"].decode().rpartition("ENTRYPOINT ")[2])[:5] == ["python3", *start]
        assert not any(word.startswith("--model-repository") for word in entrypoint)
        assert "--model-control-mode=none" in entrypoint
        readme = files["README.md"].decode()
        assert "/v2/models/tensorrt_llm_bls/generate_stream" in readme
        assert "triton_start . tritonserver" in readme

    def test_its_programs(self):
        files = plan_package(*locked(COMPILED, description()), INGREDIENTS).files
        programs = {path: data for path, data in files.items() if path.endswith("/1/model.py")}
        assert {path.split("/")[1] for path in programs} == {"preprocessing", "postprocessing", "tensorrt_llm_bls"}
        for data in programs.values():
            ast.parse(data)


class TestLlmapi:
    def test_what_triton_reads(self):
        (found,) = configs(*locked(PYTORCH)).values()
        assert (found.name, found.backend, found.max_batch_size) == ("tensorrt_llm", "python", 0)
        assert found.model_transaction_policy.decoupled
        assert [one.name for one in found.input if not one.optional] == ["text_input"]
        assert {one.name: list(one.dims) for one in found.input}["sampling_param_stop"] == [-1]

    def test_its_tensors_are_those_of_the_runtime(self):
        (found,) = configs(*locked(PYTORCH)).values()
        assert {one.name for one in found.input} == LlmapiModel.inputs
        assert {one.name for one in found.output} == LlmapiModel.outputs.keys() | NEVER

    def test_it_is_asked_by_its_own_names(self):
        manifest = make_manifest(*locked(PYTORCH), "1.2.3")
        assert models(manifest) == ("tensorrt_llm",)
        assert json.loads(example(manifest)) == {
            "text_input": "Hello",
            "streaming": True,
            "sampling_param_max_tokens": 64,
        }
        assert serve_command(manifest, "python3", "/app")[1] == "--model-repository=/app/triton"
