"""Weights under a lock: local ones are still what was locked, and what is shipped is in the store."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.locks import make_lock
from fakes.web import Flip, Status, Web

from packager.digest import sha256_hex
from packager.errors import FetchError, IntegrityError, LoadError, OutputError, PackageError
from packager.lock.lockfile import WeightsLock
from packager.lock.sources import check_sources, fetch_sources
from packager.lock.tools import storing
from packager.lock.weights import lock_adapters, lock_weights
from packager.manifest import WeightsFile
from packager.spec.load import load_spec
from packager.store import Store

CONTENT = {"model/a.gguf": b"GGUF a", "model/sub/b.json": b"{}"}


def locked(tmp_path, *, source="file://model", ship="in_image"):
    """A spec file, its folder's weights, and a lock of them."""
    if ship == "on_load":
        source = f"file://{tmp_path / 'model'}"
    (tmp_path / "packager.yaml").write_text(
        f"name: hello\nengine: {{kind: llama_cpp}}\nweights: {{source: '{source}', ship: {ship}}}\n"
    )
    for name, data in CONTENT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    file = load_spec(tmp_path)
    names = {"a.gguf": b"GGUF a"} if source.endswith(".gguf") else {k[6:]: v for k, v in CONTENT.items()}
    files = tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in names.items())
    return file, make_lock(file.spec, weights=WeightsLock(source, "", files))


@pytest.mark.parametrize("source", ["file://model", "file://model/a.gguf"])
def test_a_committed_lock_on_a_machine_with_an_empty_store(tmp_path, tools, source):
    """Someone clones lock and weights: nothing has to be locked again."""
    file, lock = locked(tmp_path, source=source)
    check_sources(lock, file, tools)
    for one in lock.weights.files:
        assert tools.store.find(one.sha256, one.size)


def test_what_is_loaded_by_the_container_is_not_copied(tmp_path, tools):
    file, lock = locked(tmp_path, ship="on_load")
    check_sources(lock, file, tools)
    assert not (tools.store.root / "sha256").exists()


def test_a_changed_file_is_refused(tmp_path, tools):
    file, lock = locked(tmp_path)
    check_sources(lock, file, tools)
    (tmp_path / "model/a.gguf").write_bytes(b"GGUF b")
    with pytest.raises(IntegrityError, match=r"a\.gguf changed since it was locked") as caught:
        check_sources(lock, file, tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:3:19")


def test_a_file_that_is_gone_is_in_the_store(tmp_path, tools):
    file, lock = locked(tmp_path)
    check_sources(lock, file, tools)
    (tmp_path / "model/a.gguf").unlink()
    check_sources(lock, file, tools)


def test_a_damaged_copy_in_the_store_is_replaced(tmp_path, tools):
    file, lock = locked(tmp_path)
    check_sources(lock, file, tools)
    path = tools.store.path(lock.weights.files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"GGUF X")
    check_sources(lock, file, tools)
    assert path.read_bytes() == b"GGUF a"


def test_a_file_that_is_nowhere(tmp_path, tools):
    file, lock = locked(tmp_path)
    (tmp_path / "model/a.gguf").unlink()
    with pytest.raises(LoadError, match="neither here nor in the store"):
        check_sources(lock, file, tools)


def test_an_engine_without_weights(tmp_path, tools):
    (tmp_path / "packager.yaml").write_text("name: hello\nengine: {kind: echo}\n")
    file = load_spec(tmp_path)
    check_sources(make_lock(file.spec), file, tools)


def adapted(tmp_path):
    """A spec with one LoRA adapter, and a lock of weights and adapter."""
    (tmp_path / "packager.yaml").write_text(
        "name: hello\nengine: {kind: vllm}\nweights:\n  source: file://model\n"
        "  adapters:\n    - {name: tuned, source: file://lora}\n"
    )
    for name, data in {"model/config.json": b"{}", "lora/adapter_model.safetensors": b"lora"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    file = load_spec(tmp_path)
    weights = WeightsLock("file://model", "", (WeightsFile("config.json", 2, sha256_hex(b"{}")),))
    lora = WeightsFile("adapter_model.safetensors", 4, sha256_hex(b"lora"))
    return file, make_lock(file.spec, weights=weights, adapters={"tuned": WeightsLock("file://lora", "", (lora,))})


def test_adapters_are_looked_after_like_weights(tmp_path, tools):
    file, lock = adapted(tmp_path)
    check_sources(lock, file, tools)
    assert tools.store.find(sha256_hex(b"lora"), 4)
    (tmp_path / "lora/adapter_model.safetensors").write_bytes(b"LORA")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors changed since it was locked") as caught:
        check_sources(lock, file, tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:6:29")


# From elsewhere.

MODEL = {"config.json": b"{}", "model.safetensors": b"S" * 3_000_000, "tokenizer.json": b"[]"}
LORA = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora"}


def remote(tmp_path, tools, weights="  source: hf://ada/model\n"):
    """A spec of weights elsewhere, and the lock of them as they are now."""
    (tmp_path / "packager.yaml").write_text(f"name: hello\nengine: {{kind: vllm}}\nweights:\n{weights}")
    file = load_spec(tmp_path)
    locked, _ = lock_weights(file, tools)
    return file, make_lock(file.spec, weights=locked, adapters=lock_adapters(file, tools))


def has(tools, files):
    return {name for name, data in files.items() if tools.store.find(sha256_hex(data), len(data))}


def test_what_ships_is_brought_into_the_store(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    hub.add_repo("ada/lora", LORA, lfs=("*.safetensors",))
    seen = []
    tools = replace(tools, on_bytes=lambda *told: seen.append(told), stage=seen.append)
    adapters = "  adapters: [{name: tuned, source: hf://ada/lora}]\n"
    file, lock = remote(tmp_path, tools, f"  source: hf://ada/model\n{adapters}")
    check_sources(lock, file, tools)
    assert (has(tools, MODEL), has(tools, LORA)) == ({"config.json", "tokenizer.json"}, {"adapter_config.json"})
    fetch_sources(lock, file, tools)
    assert (has(tools, MODEL), has(tools, LORA)) == ({*MODEL}, {*LORA})
    assert "weights: 1 file, 3.0 MB" in seen
    assert ("fetch model.safetensors", 3_000_000, 3_000_000) in seen


def test_what_is_there_is_not_asked_for(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    fetch_sources(lock, file, tools)
    hub.requests.clear()
    fetch_sources(lock, file, replace(tools, offline=True))
    check_sources(lock, file, replace(tools, offline=True))
    assert hub.requests == []


def test_a_branch_that_moved_on_is_no_matter(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    hub.commit("ada/model", {"model.safetensors": b"T" * 3_000_000, "config.json": None})
    tools.store.path(lock.weights.files[0].sha256).unlink()
    fetch_sources(lock, file, tools)
    assert has(tools, MODEL) == {*MODEL}


def test_what_the_container_loads_is_not_fetched(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools, "  source: hf://ada/model\n  ship: on_load\n")
    fetch_sources(lock, file, tools)
    assert hub.cdn.requests == []


def test_offline_says_what_is_missing_and_what_to_do(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    hub.requests.clear()
    with pytest.raises(FetchError) as caught:
        fetch_sources(lock, file, replace(tools, offline=True))
    (problem,) = caught.value.problems
    assert problem.what == "offline, and the store lacks weights (1 file, 3.0 MB): model.safetensors"
    assert problem.where.endswith("packager.yaml:4:11")
    assert all(name in problem.mend for name in ("PACKAGER_CACHE", "PACKAGER_WEIGHTS_MIRRORS"))
    assert (hub.requests, hub.cdn.requests) == ([], [])


def test_offline_a_mirror_on_a_disk_will_do(tmp_path, tools, hub, monkeypatch):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    for name, data in MODEL.items():
        (tmp_path / "mirror/model").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror/model" / name).write_bytes(data)
    monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://ada=file://{tmp_path}/mirror")
    fetch_sources(lock, file, replace(tools, offline=True))
    assert has(tools, MODEL) == {*MODEL}


def test_a_mirror_is_not_trusted(tmp_path, tools, hub, monkeypatch):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    with Web({"m/model/model.safetensors": MODEL["model.safetensors"]}) as web:
        web.faults = lambda _: Flip(7)
        monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://ada={web.url}/m")
        with pytest.raises(IntegrityError) as caught:
            fetch_sources(lock, file, tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:4:11")
    assert "model.safetensors" not in has(tools, MODEL)


def test_what_is_gone_upstream_is_said_at_its_place(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    hub.faults = lambda _: Status(404)
    with pytest.raises(LoadError) as caught:
        fetch_sources(lock, file, tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:4:11")


def test_names_of_a_lock_that_somebody_else_wrote(tmp_path, tools, hub):
    hub.add_repo("ada/model", MODEL, lfs=("*.safetensors",))
    file, lock = remote(tmp_path, tools)
    bad = replace(lock, weights=replace(lock.weights, files=(WeightsFile("../up", 1, "ab" * 32),)))
    hub.requests.clear()
    with pytest.raises(PackageError, match=r"unsafe path '\.\./up'"):
        fetch_sources(bad, file, tools)
    assert hub.requests == []


@pytest.mark.parametrize("known", [True, False])
def test_an_object_store(tmp_path, tools, s3, known):
    for name, data in MODEL.items():
        s3.put("models", f"team/{name}", data, **({"ChecksumAlgorithm": "SHA256"} if known else {}))
    file, lock = remote(tmp_path, tools, "  source: s3://models/team\n")
    assert has(tools, MODEL) == (set() if known else {*MODEL})
    fetch_sources(lock, file, tools)
    assert has(tools, MODEL) == {*MODEL}


def test_a_store_that_cannot_be_written_is_named_and_not_the_result(tmp_path, tools):
    file, lock = locked(tmp_path)
    shut = replace(tools, store=Store(Path("/sys/packager")))
    with pytest.raises(OutputError) as caught:
        check_sources(lock, file, shut)
    (problem,) = caught.value.problems
    assert problem.what.startswith("cannot write to the store: ")
    assert problem.where == "/sys/packager"
    assert "PACKAGER_CACHE" in problem.mend


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_store_that_is_full(tmp_path, number):
    def chunks():
        yield b"GGUF"
        raise OSError(number, "No room")  # as write() says it: without a name

    store = Store(tmp_path)
    with pytest.raises(OutputError, match="cannot write to the store: no room"), storing(store):
        store.put(chunks())


def test_a_source_that_cannot_be_read_is_not_the_stores(tmp_path):
    with pytest.raises(FileNotFoundError), storing(Store(tmp_path / "store")):
        Store(tmp_path / "store").add(tmp_path / "gone")


def test_a_store_that_cannot_be_made_and_a_folder_that_is_called_alike(tmp_path):
    """The system names the folder that it refused to make something in: one above the store."""
    store = Store(tmp_path / "home/.cache/packager")
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "home"))
    with pytest.raises(OutputError, match="cannot write to the store: permission denied"), storing(store):
        raise refused
    other = PermissionError(errno.EACCES, "Permission denied", f"{store.root}-weights/model.gguf")
    with pytest.raises(PermissionError), storing(store):
        raise other
