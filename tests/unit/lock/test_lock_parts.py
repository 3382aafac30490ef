"""Whether all parts of a model are there."""

import json

import pytest

from packager.errors import SpecError
from packager.lock.parts import first_part, lacking_gguf, lacking_safetensors, without_part
from packager.lock.weights import lock_weights
from packager.spec.load import SpecFile, load_spec

PARTS = [f"a-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
SHARDS = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
INDEX = "model.safetensors.index.json"
MAP = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()


def test_the_first_part_of_one_model():
    assert first_part([PARTS[1], PARTS[0]]) == PARTS[0]
    assert first_part(["a.gguf", "b.gguf"]) is None
    assert first_part([*PARTS, "b.gguf"]) is None
    assert (without_part(PARTS[2]), without_part("a.gguf")) == ("a.gguf", "a.gguf")


def test_parts_that_are_not_there():
    assert lacking_gguf("a.gguf", []) == []
    assert lacking_gguf(PARTS[0], PARTS) == []
    assert lacking_gguf(f"sub/{PARTS[0]}", [f"sub/{PARTS[0]}", *PARTS]) == [f"sub/{one}" for one in PARTS[1:]]


@pytest.mark.parametrize(
    ("index", "paths", "lacking"),
    [
        (MAP, SHARDS, []),
        (MAP, SHARDS[:1], SHARDS[1:]),
        (MAP, ["model.safetensors"], []),
        (b"{}", [], []),
        (b"[]", [], []),
        (b'{"weight_map": {"a": 1}}', [], []),
    ],
)
def test_shards_that_the_index_names(index, paths, lacking):
    assert lacking_safetensors(index, paths) == lacking


def test_an_index_that_is_not_json():
    for index in (b"{", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"\w"):
            lacking_safetensors(index, [])


def spec(folder, files: dict[str, bytes], engine: str, more: str = "") -> SpecFile:
    (folder / "model").mkdir()
    for name, data in files.items():
        (folder / "model" / name).write_bytes(data)
    (folder / "packager.yaml").write_text(
        f"name: hello\nengine: {{kind: {engine}}}\nweights:\n  source: file://model\n{more}"
    )
    return load_spec(folder)


def refusal(file, tools) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        lock_weights(file, tools)
    (problem,) = caught.value.problems
    return problem.what, problem.mend


FOLDER = {"config.json": b"{}", "tokenizer.json": b"{}"}
REST = "upload the rest, or take it with `weights.include`"


def test_a_folder_without_one_of_its_shards(tmp_path, tools):
    file = spec(tmp_path, FOLDER | {INDEX: MAP, SHARDS[0]: b"x"}, "vllm")
    assert refusal(file, tools) == (f"a part of the model is missing: {INDEX} names {SHARDS[1]}", REST)


def test_a_folder_whose_index_is_not_json(tmp_path, tools):
    file = spec(tmp_path, FOLDER | {INDEX: b"{", SHARDS[0]: b"x"}, "transformers")
    what, mend = refusal(file, tools)
    assert (what.partition(":")[0], mend) == (f"{INDEX} is not JSON", "restore the file")


def test_a_folder_with_all_of_them(tmp_path, tools):
    files = FOLDER | {INDEX: MAP} | dict.fromkeys(SHARDS, b"x")
    weights, _ = lock_weights(spec(tmp_path, files, "transformers"), tools)
    assert weights is not None
    assert {one.path for one in weights.files} == {*files}


def test_gguf_without_one_of_its_parts(tmp_path, tools):
    file = spec(tmp_path, dict.fromkeys(PARTS[:2], b"GGUF"), "llama_cpp", f"  file: {PARTS[0]}\n")
    what = f"a part of the model is missing: with {PARTS[0]} belong {PARTS[2]}"
    assert refusal(file, tools) == (what, REST)


def test_gguf_in_parts_of_which_none_is_named(tmp_path, tools):
    what = "the engine llama_cpp opens one file, and 3 of the weights are .gguf"
    mend = f"say which in `weights.file`, the first part: {PARTS[0]}"
    assert refusal(spec(tmp_path, dict.fromkeys(PARTS, b"GGUF"), "llama_cpp"), tools) == (what, mend)


def test_gguf_of_which_another_part_is_named(tmp_path, tools):
    file = spec(tmp_path, dict.fromkeys(PARTS, b"GGUF"), "llama_cpp", f"  file: {PARTS[1]}\n")
    what = f"{PARTS[1]} is not the first part of the model, which the engine opens"
    assert refusal(file, tools) == (what, f"write {PARTS[0]}: it opens the others by itself")


SAFETENSORS = FOLDER | {"model.safetensors": b"x"}
OTHERS = "use an engine that opens these (lmdeploy, tensorrt_llm, transformers, vllm)"


@pytest.mark.parametrize(
    ("engine", "files", "mend"),
    [
        (
            "llama_cpp",
            SAFETENSORS,
            f"{OTHERS}, or choose another source",
        ),
        (
            "tensorrt_llm_engine",
            SAFETENSORS,
            f"compile them: name them in `conversion.source`, for `packager convert`; or {OTHERS}",
        ),
        ("transformers", {"a.gguf": b"GGUF"}, "use an engine that opens these (llama_cpp), or choose another source"),
        ("vllm", {"readme.txt": b"x"}, "choose another source, or another engine"),
        (
            "vllm",
            {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"},
            "this is a LoRA adapter: name it in `weights.adapters`, and in `weights.source` the model that it is for",
        ),
    ],
)
def test_weights_of_another_engine(tmp_path, tools, engine, files, mend):
    assert refusal(spec(tmp_path, files, engine), tools)[1] == mend
