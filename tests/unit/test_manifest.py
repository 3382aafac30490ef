"""The manifest: the one contract between host and container."""

import json
import random
from contextlib import suppress
from dataclasses import asdict, replace

import pytest

from packager.errors import PackageError
from packager.manifest import (
    MANIFEST_PATH,
    EngineManifest,
    ImageManifest,
    Manifest,
    ServingManifest,
    WeightsFile,
    WeightsManifest,
    parse_manifest,
    read_manifest,
)

SERVING = ServingManifest("bentoml", "packager", 3000, 32, 128, 30)
ECHO = Manifest("echo", "1.0", EngineManifest("echo", "1", {"fail_after": None, "rates": [1, 2]}), None, SERVING)
WEIGHTS = WeightsManifest("file://m", "", "in_image", ".", (WeightsFile("m.gguf", 7, "a" * 64),))
WHOLE = Manifest(
    "hello",
    "1.0",
    EngineManifest("llama_cpp", "1", {"context_length": 512}),
    WEIGHTS,
    SERVING,
    "chat_template.jinja",
    ImageManifest("registry.example.com/base:1", {"A": "ä"}, {"b": "c"}),
)
TOKENIZER = WeightsManifest("hf://a/b", "c0ffee", "in_image", ".", (WeightsFile("tokenizer.json", 2, "b" * 64),))


def place(tmp_path, data: bytes):
    path = tmp_path / MANIFEST_PATH
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    "manifest", [ECHO, WHOLE, replace(WHOLE, tokenizer=TOKENIZER), replace(WHOLE, adapters={"tuned": WEIGHTS})]
)
def test_round_trip(tmp_path, manifest):
    data = manifest.to_bytes()
    found = read_manifest(place(tmp_path, data))
    assert found == manifest
    assert found.to_bytes() == data


def test_what_stands_in_which_folder():
    """The tokenizer's files stand among the weights, each adapter's alone."""
    manifest = replace(WHOLE, tokenizer=TOKENIZER, adapters={"one": WEIGHTS, "two": TOKENIZER})
    assert manifest.folders() == {
        "": (WEIGHTS, TOKENIZER),
        "adapters/one": (WEIGHTS,),
        "adapters/two": (TOKENIZER,),
    }
    assert WHOLE.folders() == {"": (WEIGHTS,)}
    assert ECHO.folders() == {}


def test_it_is_readable():
    text = WHOLE.to_bytes().decode()
    assert text.startswith('{\n  "format": 4,\n  "name": "hello",\n')
    assert '"A": "ä"' in text


def test_no_manifest(tmp_path):
    with pytest.raises(PackageError, match="not a package") as caught:
        read_manifest(tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / MANIFEST_PATH)


def test_no_json(tmp_path):
    with pytest.raises(PackageError, match="is not JSON"):
        read_manifest(place(tmp_path, b"{"))


@pytest.mark.parametrize("value", [None, [], "x", {}, {"format": 3}, {"format": "2"}])
def test_another_format(value):
    with pytest.raises(PackageError, match="this runtime reads format 4"):
        parse_manifest(value, where="x")


def changed(path, value):
    whole = json.loads(WHOLE.to_bytes())
    *parents, last = path
    at = whole
    for key in parents:
        at = at[key]
    at[last] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("serving", "port"), "3000", 'serving.port cannot be "3000"'),
        (("serving", "port"), True, "serving.port cannot be true"),
        (("serving", "port"), 3000.0, "serving.port cannot be 3000.0"),
        (("weights", "files", 0, "size"), None, "weights.files[0].size cannot be null"),
        (("weights", "files"), {}, "weights.files cannot be {}"),
        (("weights", "files", 0), [], "weights.files[0] cannot be []"),
        (("engine", "options"), [], "engine.options cannot be []"),
        (("image", "env", "A"), 1, "image.env.A cannot be 1"),
        (("name",), None, "name cannot be null"),
        (("surprise",), 1, "surprise is unknown"),
        (("engine", "surprise"), 1, "engine.surprise is unknown"),
    ],
)
def test_a_value_that_cannot_be(path, value, words):
    with pytest.raises(PackageError) as caught:
        parse_manifest(changed(path, value), where="x")
    assert caught.value.problems[0].what == f"the manifest is damaged: {words}"


@pytest.mark.parametrize("key", asdict(WHOLE))
def test_a_key_that_is_missing(key):
    value = json.loads(WHOLE.to_bytes())
    del value[key]
    with pytest.raises(PackageError, match=f"{key} is missing"):
        parse_manifest(value, where="x")


def test_damage_never_ends_in_another_error(tmp_path):
    data = WHOLE.to_bytes()
    chance = random.Random(3)
    folder = place(tmp_path, data)
    for _ in range(300):
        broken = bytearray(data)
        at = chance.randrange(len(broken))
        broken[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        (folder / MANIFEST_PATH).write_bytes(broken)
        with suppress(PackageError):
            read_manifest(folder)
