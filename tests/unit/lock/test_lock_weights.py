"""What of the weights is locked, and what the lock refuses; the exact words are in tests/projects."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.compiled import description, write_engine
from fakes.web import Status, Web

from packager.digest import sha256_hex
from packager.errors import IntegrityError, LoadError, SpecError
from packager.lock.weights import lock_adapters
from packager.lock.weights import lock_weights as lock_both
from packager.manifest import WeightsFile
from packager.spec.load import SpecFile, load_spec
from packager.store import Store
from packager.weights.chunks import PieceHasher, encode_chunks, file_chunks

MODEL = {"config.json": b"{}", "model.safetensors": b"S" * 10, "tokenizer.json": b"[]"}
LORA = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora", "optimizer.pt": b"\x80", "README.md": b"x"}
CODE = b"class Model: ...\n"
GGUF = b"GGUF stand-in for weights"


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def spec(folder: Path, weights: str, engine: str = "vllm") -> SpecFile:
    (folder / "packager.yaml").write_text(f"name: hello\nengine: {{kind: {engine}}}\nweights:\n{weights}")
    return load_spec(folder)


def lock_weights(file, tools):
    """The weights alone: a tokenizer from elsewhere has tests of its own."""
    return lock_both(file, tools)[0]


def locked(files: dict[str, bytes]) -> tuple[WeightsFile, ...]:
    return tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in sorted(files.items()))


def with_chunks(files: dict[str, bytes], *, known: tuple[str, ...] = ()) -> tuple[WeightsFile, ...]:
    """As `locked`, with the digests of chunks but for the files whose sha256 the source knows."""
    found = []
    for one in locked(files):
        pieces = PieceHasher()
        pieces.update(files[one.path])
        chunks = encode_chunks(file_chunks(pieces.finish()))
        found.append(one if one.path in known else replace(one, chunks=chunks))
    return tuple(found)


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
    assert lock_weights(file, tools).files == with_chunks(MODEL)
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


def test_code_that_is_not_there_is_told_before_the_weights_are_read(tmp_path, tools):
    file = with_code(tmp_path)
    file.path.write_text(file.path.read_text().replace("{modeling_x", f"{{modeling_z.py: {'ab' * 32}, modeling_x"))
    with pytest.raises(SpecError) as caught:
        lock_weights(load_spec(tmp_path), tools)
    assert [one.what for one in caught.value.problems] == ["modeling_z.py is not among the weights"]
    assert not any(tools.store.find(one.sha256, one.size) for one in locked(MODEL))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json is not JSON: "),
        ("hf_quant_config.json", "does not say how the weights are quantized"),
    ],
)
def test_a_configuration_that_is_nested_too_deep(tmp_path, tools, name, said):
    write(tmp_path / "model", {**MODEL, name: b"[" * 100_000})
    file = spec(tmp_path, "  source: file://model\n", "lmdeploy")
    with pytest.raises(SpecError, match=said):
        lock_weights(file, tools)


def test_a_configuration_below_the_top_is_no_configuration(tmp_path, tools):
    write(tmp_path / "model", MODEL | {"other/config.json": b'{"auto_map": {"A": "b.C"}}'})
    assert lock_weights(spec(tmp_path, "  source: file://model\n"), tools) is not None


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            ["b.gguf", "sub/c.gguf"],
            ["2 more such files are taken beside a.gguf (0.0 GB): `weights.include` says which"],
        ),
        (["tokenizer.json"], []),
    ],
)
def test_more_files_than_the_engine_opens(tmp_path, tools, others, said):
    write(tmp_path / "model", dict.fromkeys(["a.gguf", *others], GGUF))
    heard = []
    file = spec(tmp_path, "  source: file://model\n  file: a.gguf\n", "llama_cpp")
    lock_weights(file, replace(tools, say=heard.append))
    assert heard == said


def test_parts_of_one_model_belong_together(tmp_path, tools):
    parts = [f"a-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    write(tmp_path / "model", dict.fromkeys(parts, GGUF))
    heard = []
    file = spec(tmp_path, f"  source: file://model\n  file: {parts[0]}\n", "llama_cpp")
    lock_weights(file, replace(tools, say=heard.append))
    assert heard == []


# From elsewhere. A model of the hub: what its large file storage has, it knows the sha256 of.

LARGE = ("model.safetensors",)
HUB = "  source: hf://ada/model\n"


@pytest.mark.parametrize("ship", ["in_image", "on_load"])
def test_a_repository_of_the_hub(tmp_path, tools, hub, ship):
    commit = hub.add_repo("ada/model", MODEL | {".gitattributes": b"x"}, lfs=LARGE)
    lock = lock_weights(spec(tmp_path, f"{HUB}  ship: {ship}\n"), tools)
    assert (lock.source, lock.revision, lock.files) == ("hf://ada/model", commit, with_chunks(MODEL, known=LARGE))
    # Small files are read once, the others not at all.
    asked = [one.path.rpartition("/")[2] for one in hub.requests if "/resolve/" in one.path]
    assert sorted(asked) == ["config.json", "tokenizer.json"]
    assert hub.cdn.requests == []
    assert {one.path for one in lock.files if tools.store.find(one.sha256, one.size)} == {*MODEL} - {*LARGE}


def test_a_folder_of_a_repository(tmp_path, tools, hub):
    hub.add_repo("ada/model", {f"sub/{name}": data for name, data in MODEL.items()} | {"README.md": b"x"}, lfs=LARGE)
    lock = lock_weights(spec(tmp_path, "  source: hf://ada/model/sub\n"), tools)
    assert [one.path for one in lock.files] == sorted(MODEL)


def test_a_revision_is_pinned_to_its_commit(tmp_path, tools, hub):
    old = hub.add_repo("ada/model", MODEL, lfs=LARGE)
    hub.commit("ada/model", {"model.safetensors": b"T" * 10})
    branch = hub.commit("ada/model", {"tokenizer.json": b"[1]"}, branch="next")
    assert lock_weights(spec(tmp_path, f"{HUB}  revision: next\n"), tools).revision == branch
    lock = lock_weights(spec(tmp_path, f"{HUB}  revision: {old}\n"), tools)
    assert (lock.revision, lock.files) == (old, with_chunks(MODEL, known=LARGE))


def test_adapters_of_the_hub(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=LARGE)
    commit = hub.add_repo("ada/lora", {name: data for name, data in LORA.items() if name != "optimizer.pt"})
    hub.commit("ada/lora", {"adapter_config.json": b"[]"})
    adapters = f"[{{name: tuned, source: hf://ada/lora, revision: {commit}}}]"
    lock = lock_adapters(spec(tmp_path, f"{HUB}  adapters: {adapters}\n"), tools)["tuned"]
    assert (lock.source, lock.revision) == ("hf://ada/lora", commit)
    assert lock.files == with_chunks(
        {name: LORA[name] for name in ("adapter_config.json", "adapter_model.safetensors")}
    )


@pytest.mark.parametrize(
    ("weights", "what", "mend"),
    [
        (
            f"{HUB}  revision: v9\n",
            "the repository has no such revision: hf://ada/model",
            "a branch, a tag or a commit",
        ),
        (
            "  source: hf://ada/other\n",
            "the hub has no such repository, or it is private and no token was sent: hf://ada/other",
            "HF_TOKEN",
        ),
        ("  source: hf://ada/gated\n", "the repository is gated, and no token was sent: hf://ada/gated", "licence"),
    ],
)
def test_what_the_hub_refuses_is_said_at_its_place_in_the_spec(tmp_path, tools, hub, weights, what, mend):
    hub.add_repo("ada/model", MODEL, lfs=LARGE)
    hub.add_repo("ada/gated", MODEL, lfs=LARGE, gated=True, token="hf_adas")
    with pytest.raises(LoadError) as caught:
        lock_weights(spec(tmp_path, weights), tools)
    (problem,) = caught.value.problems
    assert (problem.what, mend in problem.mend) == (what, True)
    assert problem.where.endswith("packager.yaml:4:11")


def test_names_are_refused_before_anything_is_read(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL | {"README.md": b"x", "readme.md": b"x", "aux.json": b"x"}, lfs=LARGE)
    with pytest.raises(SpecError) as caught:
        lock_weights(spec(tmp_path, HUB), tools)
    assert [problem.what.partition(":")[0] for problem in caught.value.problems] == [
        "the weights list an unsafe path 'aux.json'",
        "the weights list 'README.md' and 'readme.md'",
    ]
    assert not [one.path for one in hub.requests if "/resolve/" in one.path]
    included = "  include: ['*.safetensors', config.json, tokenizer.json]\n"
    assert lock_weights(spec(tmp_path, HUB + included), tools).files == with_chunks(MODEL, known=LARGE)


def test_code_is_refused_before_anything_large_is_read(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL | {"pytorch_model.bin": b"\x80"}, lfs=("*.bin", *LARGE))
    with pytest.raises(SpecError, match=r"pytorch_model\.bin is a pickle"):
        lock_weights(spec(tmp_path, HUB), tools)
    assert hub.cdn.requests == []


def test_the_hub_that_fails_for_a_moment(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=LARGE)
    faults = [Status(429, {"Retry-After": "0"})] * 2
    hub.faults = lambda one: faults.pop() if "/resolve/" in one.path and faults else None
    assert lock_weights(spec(tmp_path, HUB), tools).files == with_chunks(MODEL, known=LARGE)
    assert faults == []


def test_a_mirror_of_the_hub_is_locked_under_the_hubs_address(tmp_path, tools, monkeypatch):
    write(tmp_path / "mirror/ada/model", MODEL)
    monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://=file://{tmp_path}/mirror")
    lock = lock_weights(spec(tmp_path, f"{HUB}  revision: v1\n  ship: on_load\n"), tools)
    assert (lock.source, lock.revision, lock.files) == ("hf://ada/model", "v1", with_chunks(MODEL))


@pytest.mark.parametrize("known", [True, False])
def test_an_object_store(tmp_path, tools, s3, known):
    for name, data in MODEL.items():
        s3.put("models", f"team/{name}", data, **({"ChecksumAlgorithm": "SHA256"} if known else {}))
    lock = lock_weights(spec(tmp_path, "  source: s3://models/team\n  ship: on_load\n"), tools)
    assert (lock.source, lock.revision) == ("s3://models/team", "")
    assert lock.files == with_chunks(MODEL, known=tuple(MODEL) if known else ())


def test_a_file_of_the_web(tmp_path, tools):
    with Web({"a/model.gguf": GGUF}) as web:
        lock = lock_weights(spec(tmp_path, f"  source: {web.url}/a/model.gguf\n", "llama_cpp"), tools)
        assert (lock.source, lock.files) == (f"{web.url}/a/model.gguf", with_chunks({"model.gguf": GGUF}))
        assert [one.start for one in web.requests if one.method == "GET"] == [None]


def test_a_folder_of_the_web_is_what_its_sums_list(tmp_path, tools):
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in MODEL.items())
    files = {f"m/{name}": data for name, data in MODEL.items()}
    with Web({**files, "m/SHA256SUMS": sums.encode(), "m/other": b"x"}) as web:
        lock = lock_weights(spec(tmp_path, f"  source: {web.url}/m/\n"), tools)
        assert lock.files == locked(MODEL)


def test_sums_that_lie_of_what_was_judged(tmp_path, tools):
    sums = f"{'ab' * 32}  config.json\n{'cd' * 32}  model.safetensors\n{'ef' * 32}  tokenizer.json\n"
    with Web({**{f"m/{name}": data for name, data in MODEL.items()}, "m/SHA256SUMS": sums.encode()}) as web:
        file = spec(tmp_path, f"  source: {web.url}/m/\n")
        with pytest.raises(IntegrityError, match=r"config\.json is not what was read before") as caught:
            lock_weights(file, tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:4:11")


def test_the_same_lock_whatever_the_store_holds(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=LARGE)
    file = spec(tmp_path, HUB)
    first = lock_weights(file, tools)
    assert lock_weights(file, tools) == first
    for data in MODEL.values():
        tools.store.put([data])
    assert lock_weights(file, tools) == first
    assert lock_weights(file, replace(tools, store=Store(tmp_path / "empty"))) == first


def test_a_compiled_engine_that_nothing_describes(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL | {"rank0.engine": b"x"}, lfs=("*.engine", *LARGE))
    with pytest.raises(SpecError, match=r"rank0\.engine is a compiled engine, and no engine\.json says") as caught:
        lock_weights(spec(tmp_path, HUB), tools)
    assert hub.cdn.requests == []
    assert "packager engine describe" in caught.value.problems[0].mend


def test_it_is_refused_before_what_has_no_digest_is_read(tmp_path, tools, s3):
    for name, data in {**MODEL, "rank0.engine": b"x" * 10}.items():
        s3.put("models", f"team/{name}", data)
    with pytest.raises(SpecError, match=r"rank0\.engine is a compiled engine"):
        lock_weights(spec(tmp_path, "  source: s3://models/team\n"), tools)
    assert {one.path.rpartition("/")[2] for one in s3.requests("GET")} <= {"models", "", "config.json"}


@pytest.mark.parametrize("right", [True, False])
def test_a_compiled_engine_brings_what_it_was_built_for(tmp_path, tools, right):
    """What engine.json says of a file is held against its bytes, also where the source knows no digest."""
    folder = write_engine(tmp_path / "model")
    (folder / "model.gguf").write_bytes(GGUF)
    described = description()
    described["files"] = {
        path.name: {"sha256": sha256_hex(path.read_bytes()) if right else "0" * 64, "size": path.stat().st_size}
        for path in folder.iterdir()
    }
    (folder / "engine.json").write_text(json.dumps(described))
    file = spec(tmp_path, "  source: file://model\n", "llama_cpp")
    if right:
        assert lock_weights(file, tools).compiled["gpu"]["sm"] == "8.0"
        return
    with pytest.raises(SpecError, match=r"engine\.json"):
        lock_weights(file, tools)
