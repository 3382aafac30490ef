"""The model repository of a package for Triton, read by Triton's own protobuf messages."""

import ast
import json

import pytest
from fakes.locks import INGREDIENTS, make_lock, make_spec
from google.protobuf import text_format as protobuf
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from packager.image.plan import plan_image
from packager.manifest import Manifest
from packager.package.plan import make_manifest, plan_package
from packager.package.triton import Word, repository, serve_command, text_format
from packager.runtime.server.triton import INPUTS, OUTPUTS, model_config

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
        assert image.config.entrypoint == serve_command(make(), "/app")
        assert image.config.exposed_ports == ("8000/tcp", "8001/tcp", "8002/tcp")
        dockerfile = files["Dockerfile"].decode()
        assert json.loads(dockerfile.rpartition("ENTRYPOINT ")[2]) == list(serve_command(make(), "/app"))
        assert "EXPOSE 8000 8001 8002\n" in dockerfile

    def test_its_readme_says_how_it_is_run(self):
        spec = make_spec(**FIELDS)
        readme = plan_package(spec, make_lock(spec), INGREDIENTS).files["README.md"].decode()
        assert "localhost:8000/v2/models/hello/generate_stream" in readme
        assert "bentoml" not in readme


def test_the_command():
    command = serve_command(make(), "/app")
    assert command[:2] == ("tritonserver", "--model-repository=/app/triton")
    for option in ("--http-port=8000", "--grpc-port=8001", "--metrics-port=8002", "--exit-timeout-secs=20"):
        assert option in command
    assert "--model-control-mode=none" in command
    assert "--backend-config=python,shm-default-byte-size=16777216" in command
