"""What is taken of a model's repository to be converted, and what is refused of it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hub import Hub

from packager.command import run_command
from packager.convert.plan import conversion_of
from packager.convert.source import Found, lock_found, lock_tokenizer, look_at_adapter, look_at_model
from packager.errors import LoadError, OfflineError, SpecError
from packager.lock.tools import Tools
from packager.spec.load import load_spec
from packager.store import Store

CODE = b"raise SystemExit"
CONFIG = {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
MODEL = {
    "config.json": json.dumps(CONFIG).encode(),
    "generation_config.json": b"{}",
    "model-00001-of-00002.safetensors": b"first half",
    "model-00002-of-00002.safetensors": b"other half",
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
}
BESIDE = {
    "README.md": b"card",
    "consolidated.safetensors": b"the same once more",
    "pytorch_model-00001-of-00002.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "modeling_own.py": CODE,
    "onnx/model.safetensors": b"another form",
}
SHA256 = hashlib.sha256(CODE).hexdigest()
WITHOUT = "or take a copy whose configurations have no `auto_map`, where TensorRT-LLM has the architecture itself"


class Place:
    """A hub and the folder of a spec that names a model of it."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.tools = Tools(Store(folder / "cache"), run_command)

    def spec(self, conversion: str = "source: hf://ada/model"):
        lines = ["name: x", "engine: {kind: tensorrt_llm_engine}", "weights: {source: hf://ada/engine, ship: on_load}"]
        (self.folder / "packager.yaml").write_text("\n".join([*lines, f"conversion: {{{conversion}}}"]) + "\n")
        return load_spec(self.folder)

    def look(self, files: dict[str, bytes], conversion: str = "source: hf://ada/model") -> Found:
        self.hub.add_repo("ada/model", files, lfs=("*.safetensors", "*.bin"))
        file = self.spec(conversion)
        return look_at_model(file, conversion_of(file), self.tools)

    def refused(self, files: dict[str, bytes], conversion: str = "source: hf://ada/model") -> list[tuple[str, str]]:
        with pytest.raises(SpecError) as caught:
            self.look(files, conversion)
        assert all("packager.yaml:4:" in one.where for one in caught.value.problems)
        return [(one.what, one.mend) for one in caught.value.problems]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield Place(hub, tmp_path)


def test_the_model_is_taken_once_and_without_code_or_pickles(place):
    found = place.look({**MODEL, **BESIDE})
    assert {one.path for one in found.files} == MODEL.keys()
    assert (found.address, found.revision) == ("hf://ada/model", place.hub.repos["ada/model"].branches["main"])
    assert (found.facts.context, found.facts.dtype, found.facts.quantization) == (4096, "bfloat16", "")
    locked = lock_found(found, place.tools, {})
    assert {one.path: one.sha256 for one in locked.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in MODEL.items()
    }
    assert (locked.source, locked.revision, locked.ship) == (found.address, found.revision, "on_load")


def test_a_folder_is_named_from_anywhere(place, monkeypatch):
    (place.folder / "model").mkdir()
    for path, data in MODEL.items():
        (place.folder / "model" / path).write_bytes(data)
    file = place.spec("source: file://model")
    found = look_at_model(file, conversion_of(file), place.tools)
    monkeypatch.chdir("/")
    assert len(lock_found(found, place.tools, {}).files) == len(MODEL)


def test_code_that_was_vouched_for_is_taken_and_no_other(place):
    own = {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
    files = {**MODEL, "config.json": json.dumps(own).encode(), **BESIDE}
    mend = f"read it, and vouch for it: `conversion.trusted_code: {{modeling_own.py: {SHA256}}}`; {WITHOUT}"
    assert place.refused(files) == [("the model is opened by code of its own: modeling_own.py", mend)]
    trusted = f"source: hf://ada/model, trusted_code: {{modeling_own.py: {SHA256}}}"
    found = place.look(files, trusted)
    assert "modeling_own.py" in {one.path for one in found.files}
    lock_found(found, place.tools, {"modeling_own.py": SHA256})
    with pytest.raises(SpecError) as caught:
        lock_found(found, place.tools, {"modeling_own.py": "0" * 64})
    (problem,) = caught.value.problems
    assert problem.what == "modeling_own.py is not the file that was vouched for: it has another sha256"
    assert problem.mend.endswith(SHA256)


def test_code_that_is_not_there(place):
    trusted = f"source: hf://ada/model, trusted_code: {{other.py: {SHA256}}}"
    said = ("other.py is not among the files of hf://ada/model", "remove it, or correct its path")
    assert place.refused(MODEL, trusted) == [said]


def test_all_that_has_to_be_vouched_for_is_told_at_once(place):
    """As Baichuan2 is on the hub: in the words to write, with the modules that are imported and named nowhere."""
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    words = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    code = {
        "configuration_own.py": b"class OwnConfig: ...",
        "generation_utils.py": b"\n" * 300_000,
        "modeling_own.py": b"from .configuration_own import OwnConfig\ntry:\n    from .quantizer import x\nexcept: ...\n",
        "quantizer.py": b"import torch\nfrom .generation_utils import y\nfrom .not_there import z\n",
        "tokenization_own.py": b"",
    }
    files = {
        "config.json": json.dumps(CONFIG | {"auto_map": own}).encode(),
        "tokenizer_config.json": json.dumps(words).encode(),
        "pytorch_model-00001-of-00002.bin": b"one",
        "pytorch_model-00002-of-00002.bin": b"two",
        "training_args.bin": b"settings",
        "unrelated.py": b"",
        **code,
    }
    ((what, mend),) = place.refused(files)
    assert what == f"the model is opened by code of its own ({', '.join(code)}), and has no .safetensors files"
    assert mend.startswith("read the code, and vouch for it and for the pickles: `conversion.trusted_code: {")
    (said,) = re.findall(r"`conversion\.(trusted_code: {.*})`;", mend)
    found = place.look(files, f"source: hf://ada/model, {said}")
    pickles = {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
    assert {one.path for one in found.files} == {"config.json", "tokenizer_config.json", *code, *pickles}
    asked = conversion_of(place.spec(f"source: hf://ada/model, {said}"))
    assert len(lock_found(found, place.tools, asked.trusted_code).files) == len(found.files)
    assert len(place.refused(files, f"source: hf://ada/model, {said}".replace("quantizer.py", "unrelated.py"))) == 1


def test_code_that_is_named_and_not_there_or_elsewhere(place):
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "ada/other--modeling.Own"}
    files = {**MODEL, "config.json": json.dumps(CONFIG | {"auto_map": own}).encode()}
    assert [what for what, _ in place.refused(files)] == [
        "config.json names code of another repository: ada/other--modeling.py",
        "config.json names code to run: configuration_own.py",
    ]


def test_the_tokenizer_from_elsewhere_has_a_digest(place):
    words = {"tokenizer.json": b'{"version": "1.0"}', "tokenizer.model": b"pieces", "model.safetensors": b"weights"}
    place.hub.add_repo("ada/words", words)
    assert lock_tokenizer(place.spec(), place.tools) is None
    file = place.spec()
    file.path.write_text(file.path.read_text().replace("ship:", "tokenizer: hf://ada/words, ship:"))
    found = lock_tokenizer(load_spec(place.folder), place.tools)
    assert found == hashlib.sha256(words["tokenizer.json"]).hexdigest()
    place.hub.add_repo("ada/words", {"tokenizer.model": b"pieces"})
    with pytest.raises(SpecError) as caught:
        lock_tokenizer(load_spec(place.folder), place.tools)
    (problem,) = caught.value.problems
    assert problem.what == "there is no tokenizer.json here, which the served engine needs"
    assert "packager.yaml:3:" in problem.where


def test_pickles_alone(place):
    files = {path: data for path, data in MODEL.items() if not path.endswith(".safetensors")}
    sha256 = hashlib.sha256(b"pickle").hexdigest()
    mend = f"convert its pickles, or vouch for them: `conversion.trusted_code: {{pytorch_model.bin: {sha256}}}`"
    none = "the model has no .safetensors files"
    assert place.refused({**files, "pytorch_model.bin": b"pickle"}) == [(none, mend)]
    assert place.refused(files) == [(none, "take a model that has them")]
    trusted = f"source: hf://ada/model, trusted_code: {{pytorch_model.bin: {sha256}}}"
    pickles = {**files, "pytorch_model.bin": b"pickle", "pytorch_model.bin.index.json": b"{}"}
    found = {one.path for one in place.look(pickles, trusted).files}
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json"} <= found


def test_what_is_no_model(place):
    what = "there is no model of transformers here: config.json is missing"
    assert place.refused({"model.gguf": b"GGUF"}) == [(what, "name the folder that has it")]
    for damaged in (b"{", b'{"a":' * 100_000):
        ((said, _),) = place.refused({**MODEL, "config.json": damaged})
        assert said.startswith("config.json is not JSON: ")


def test_what_modelopt_quantized(place):
    assert place.look({**MODEL, "hf_quant_config.json": b"{}"}).facts.quantization == "modelopt"


def test_a_place_that_is_not_there(place):
    file = place.spec()
    with pytest.raises(LoadError) as caught:
        look_at_model(file, conversion_of(file), place.tools)
    assert "packager.yaml:4:" in caught.value.problems[0].where


def test_offline_nobody_is_asked(place, monkeypatch):
    file = place.spec()
    asked, tools = conversion_of(file), replace(place.tools, offline=True)
    with pytest.raises(OfflineError, match="offline, and what is converted is elsewhere"):
        look_at_model(file, asked, tools)
    assert place.hub.requests == []
    (place.folder / "model").mkdir()
    for path, data in MODEL.items():
        (place.folder / "model" / path).write_bytes(data)
    monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://ada/model=file://{place.folder}/model")
    found = look_at_model(file, asked, tools)
    assert (found.address, found.size) == ("hf://ada/model", sum(map(len, MODEL.values())))


def test_an_adapter_is_two_files(place):
    place.hub.add_repo(
        "ada/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x", "trainer.py": CODE}
    )
    file = place.spec("source: hf://ada/model, merge: {source: hf://ada/lora}")
    found = look_at_adapter(file, conversion_of(file), place.tools)
    assert [one.path for one in found.files] == ["adapter_config.json", "adapter_model.safetensors"]
    place.hub.add_repo("ada/lora", {"adapter_config.json": b"{}"})
    with pytest.raises(SpecError) as caught:
        look_at_adapter(file, conversion_of(file), place.tools)
    assert caught.value.problems[0].what == "the adapter lacks adapter_model.safetensors"
    file = place.spec()
    assert look_at_adapter(file, conversion_of(file), place.tools) is None
