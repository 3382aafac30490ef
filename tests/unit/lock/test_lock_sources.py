"""Local weights under a lock: still what was locked, and in the store when they are shipped."""

import pytest
from fakes.locks import make_lock

from packager.command import run_command
from packager.digest import sha256_hex
from packager.errors import IntegrityError, LoadError
from packager.lock.lockfile import WeightsLock
from packager.lock.sources import check_sources
from packager.lock.tools import Tools
from packager.manifest import WeightsFile
from packager.spec.load import load_spec
from packager.store import Store

CONTENT = {"model/a.gguf": b"GGUF a", "model/sub/b.json": b"{}"}


@pytest.fixture
def tools(tmp_path):
    return Tools(store=Store(tmp_path / "cache"), run=run_command)


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
