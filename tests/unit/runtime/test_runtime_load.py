"""What an adapter is handed when a package is loaded: verified weights and adapters, and the words of the spec."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.packages import make_package
from fakes.stores import loading_package, write_weights

from packager.errors import IntegrityError
from packager.fetch import fetch_package
from packager.manifest import read_manifest
from packager.runtime import engines
from packager.runtime.load import load_engine, open_package
from packager.runtime.logs import LOG
from packager.runtime.metrics import Metrics
from packager.store import Store
from packager.weights.leases import living

NOTING = """
from packager.runtime.engine import EngineFacts

class Noting:
    def __init__(self, setup): self.setup = setup
    async def start(self): return EngineFacts("noting", "1", self.setup.model, 1, 1)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a folder of weights and two LoRA adapters, for an engine that notes what it is handed."""
    for name in ("model/config.json", "model/sub/more.json", "one/adapter_config.json", "two/adapter_config.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters/noting.py").write_text(NOTING)
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path / "adapters")])
    monkeypatch.setitem(engines.ADAPTERS, "noting", "noting:Noting")
    return make_package(
        tmp_path / "package",
        engine="noting",
        options={"a": 1},
        weights=tmp_path / "model",
        adapters={name: tmp_path / name for name in ("one", "two")},
        quantization="nf4",
        vendored=False,
    )


async def load(package: Path):
    engine, _ = await load_engine(read_manifest(package), package, Store(package.parent / "store"), Metrics())
    return engine.setup


async def test_a_folder_of_weights_and_adapters(package):
    setup = await load(package)
    assert (setup.model, setup.options, setup.quantization, setup.slots) == ("hello", {"a": 1}, "nf4", 4)
    assert setup.weights.samefile(package / "data")
    assert setup.adapters == {name: package / "data/adapters" / name for name in ("one", "two")}


async def test_an_adapter_with_other_bytes_is_not_handed_on(package):
    path = package / "data/adapters/two/adapter_config.json"
    path.write_text(path.read_text()[::-1])
    with pytest.raises(IntegrityError, match="not what was packaged"):
        await load(package)


async def test_fetched_weights_and_adapters_come_from_their_own_sources(package, tmp_path):
    manifest = read_manifest(package)
    fetched = {
        name: replace(one, ship="on_load", source=f"file://{tmp_path / name}")
        for name, one in {**manifest.adapters, "model": manifest.weights}.items()
    }
    weights = fetched.pop("model")
    manifest = replace(manifest, weights=weights, adapters=fetched)
    engine, _ = await load_engine(manifest, tmp_path / "elsewhere", Store(tmp_path / "store"), Metrics())
    assert (engine.setup.weights / "sub/more.json").read_text() == "model/sub/more.json"
    assert (engine.setup.adapters["two"] / "adapter_config.json").read_text() == "two/adapter_config.json"


async def test_a_store_without_room_for_leases_is_loaded_from_and_said(tmp_path, caplog):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a"))
    store = Store(tmp_path / "store")
    fetch_package(read_manifest(package), store)
    shutil.rmtree(store.root / "leases")
    (store.root / "leases").write_text("in the way")
    LOG.addHandler(caplog.handler)
    try:
        supervisor = open_package(package, store)
        supervisor.start()
        await supervisor.loaded()
        await supervisor.stop()
    finally:
        LOG.removeHandler(caplog.handler)
    (said,) = [record for record in {*caplog.records} if record.msg == "no lease"]
    assert said.fields == {"store": str(store.root), "reason": "File exists"}


async def test_a_lease_ends_with_the_supervisor(tmp_path):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a"))
    store = Store(tmp_path / "store")
    supervisor = open_package(package, store)
    assert living(store) == ()
    supervisor.start()
    await supervisor.loaded()
    (lease,) = living(store)
    assert (lease.holder, list(lease.files.values())) == ("hello", [f"file://{tmp_path}/source/a.bin"])
    await supervisor.stop()
    assert living(store) == ()
