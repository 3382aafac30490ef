"""What of the weights is locked, and what the lock refuses; the exact words are in tests/projects."""

import json
from pathlib import Path

import pytest

from packager.command import run_command
from packager.digest import sha256_hex
from packager.errors import SpecError
from packager.lock.tools import Tools
from packager.lock.weights import lock_adapters, lock_weights
from packager.manifest import WeightsFile
from packager.spec.load import SpecFile, load_spec
from packager.store import Store

MODEL = {"config.json": b"{}", "model.safetensors": b"S" * 10, "tokenizer.json": b"[]"}
LORA = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora", "optimizer.pt": b"\x80", "README.md": b"x"}
CODE = b"class Model: ...\n"


@pytest.fixture
def tools(tmp_path):
    return Tools(store=Store(tmp_path / "cache"), run=run_command)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def spec(folder: Path, weights: str, engine: str = "vllm") -> SpecFile:
    (folder / "packager.yaml").write_text(f"name: hello\nengine: {{kind: {engine}}}\nweights:\n{weights}")
    return load_spec(folder)


def locked(files: dict[str, bytes]) -> tuple[WeightsFile, ...]:
    return tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in sorted(files.items()))


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_folder_of_safetensors(tmp_path, tools, engine):
    more = {"onnx/model.json": b"{}", "README.md": b"x"}
    write(tmp_path / "model", MODEL | more)
    lock = lock_weights(spec(tmp_path, "  source: file://model\n", engine), tools)
    assert (lock.source, lock.revision, lock.files) == ("file://model", "", locked(MODEL | more))
    assert all(tools.store.find(one.sha256, one.size) for one in lock.files)


def test_a_converted_folder_of_ctranslate2(tmp_path, tools):
    files = {"config.json": b"{}", "model.bin": b"\x06\0\0\0" + b"x" * 2_000_000, "tokenizer.json": b"{}"}
    write(tmp_path / "model", files)
    assert lock_weights(spec(tmp_path, "  source: file://model\n", "ctranslate2"), tools).files == locked(files)


def test_only_what_is_included(tmp_path, tools):
    write(tmp_path / "model", MODEL | {"pytorch_model.bin": b"\x80", "sub/config.json": b"{}"})
    file = spec(tmp_path, "  source: file://model\n  include: [config.json, '*.safetensors', 'sub/*']\n")
    assert [one.path for one in lock_weights(file, tools).files] == [
        "config.json",
        "model.safetensors",
        "sub/config.json",
    ]


def test_what_is_fetched_on_load_is_not_kept(tmp_path, tools):
    write(tmp_path / "model", MODEL)
    write(tmp_path / "lora", LORA)
    file = spec(
        tmp_path,
        f"  source: file://{tmp_path}/model\n  ship: on_load\n"
        f"  adapters: [{{name: tuned, source: 'file://{tmp_path}/lora'}}]\n",
    )
    assert lock_weights(file, tools).files == locked(MODEL)
    assert len(lock_adapters(file, tools)["tuned"].files) == 2
    assert not (tools.store.root / "sha256").exists()


def test_adapters_are_two_files_each(tmp_path, tools):
    write(tmp_path / "model", MODEL)
    write(tmp_path / "lora", LORA)
    adapters = "[{name: tuned, source: file://lora}, {name: again, source: file://lora}]"
    lock = lock_adapters(spec(tmp_path, f"  source: file://model\n  adapters: {adapters}\n"), tools)
    assert list(lock) == ["tuned", "again"]
    for one in lock.values():
        assert one.source == "file://lora"
        assert one.files == locked({name: LORA[name] for name in ("adapter_config.json", "adapter_model.safetensors")})
        assert all(tools.store.find(each.sha256, each.size) for each in one.files)


def test_no_weights_no_adapters(tmp_path, tools):
    (tmp_path / "packager.yaml").write_text("name: hello\nengine: {kind: echo}\n")
    file = load_spec(tmp_path)
    assert (lock_weights(file, tools), lock_adapters(file, tools)) == (None, {})


def with_code(folder: Path, sha256: str = sha256_hex(CODE), name: str = "modeling_x.py") -> SpecFile:
    config = json.dumps({"auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}).encode()
    write(folder / "model", MODEL | {"config.json": config, "modeling_x.py": CODE})
    return spec(folder, f"  source: file://model\n  trusted_code: {{{name}: {sha256}}}\n", "transformers")


def test_code_that_is_vouched_for(tmp_path, tools):
    lock = lock_weights(with_code(tmp_path), tools)
    assert WeightsFile("modeling_x.py", len(CODE), sha256_hex(CODE)) in lock.files


@pytest.mark.parametrize(
    ("sha256", "name", "words"),
    [
        ("ab" * 32, "modeling_x.py", ["modeling_x.py is not the file that was vouched for"]),
        (sha256_hex(CODE), "modeling_y.py", ["modeling_x.py is code", "config.json names code to run: modeling_x.py"]),
    ],
)
def test_code_is_vouched_for_by_its_bytes_and_its_name(tmp_path, tools, sha256, name, words):
    with pytest.raises(SpecError) as caught:
        lock_weights(with_code(tmp_path, sha256, name), tools)
    assert len(caught.value.problems) == len(words)
    assert all(problem.what.startswith(word) for problem, word in zip(caught.value.problems, words, strict=True))


def test_a_configuration_below_the_top_is_no_configuration(tmp_path, tools):
    write(tmp_path / "model", MODEL | {"other/config.json": b'{"auto_map": {"A": "b.C"}}'})
    assert lock_weights(spec(tmp_path, "  source: file://model\n"), tools) is not None
