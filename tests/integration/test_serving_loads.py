"""A server that loads its weights: what is seen of it meanwhile, and what of the store it keeps for itself."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
from fakes.serving import ProcessServer, wait_until
from fakes.stores import loading_package, write_weights
from fakes.web import Web

from packager.store import Store
from packager.upkeep.inventory import take_inventory
from packager.upkeep.prune import PruneOptions, prune
from packager.weights.leases import living

SIZE = 24 << 20
ALL = PruneOptions(float("-inf"))


@pytest.fixture(params=["packager", "bentoml"])
def host(request) -> str:
    return request.param


@pytest.fixture
def loading(tmp_path, host) -> Iterator:
    """A server whose weights come to a third, until the second of these is called; its store."""
    data, more = os.urandom(SIZE), threading.Event()
    source = write_weights(tmp_path / "source", weights=data)
    with Web({"weights.bin": data}) as web:
        web.faults = lambda request: more.wait() and None if request.start and request.start >= SIZE // 3 else None
        package = loading_package(tmp_path / "package", source, address=f"{web.url}/", vendored=True)
        with ProcessServer(package, host) as server:
            yield server, more.set, Store(tmp_path / "package-home/cache")
            more.set()


def wait_for_bytes(server: ProcessServer) -> None:
    wait_until(lambda: server.status("/livez") == 200 and _metric(server, "packager_load_done_bytes") > 0, "bytes come")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _metric(server: ProcessServer, name: str) -> float:
    try:
        return server.metric(name)
    except (StopIteration, httpx.TransportError):
        return 0.0


def test_metrics_while_it_loads(loading):
    server, finish, _ = loading
    wait_for_bytes(server)
    assert (server.status("/livez"), server.status("/readyz")) == (200, 503)
    assert server.metric("packager_load_bytes ") == SIZE
    assert 0 < server.metric("packager_load_done_bytes ") < SIZE
    assert 0 < server.metric("packager_fetched_bytes_total ") < SIZE
    first = server.metric('packager_load_seconds{phase="download"}')
    wait_until(lambda: server.metric('packager_load_seconds{phase="download"}') > first > 0, "its seconds go on")
    assert server.metric("packager_ready ") == 0
    finish()
    server.wait_ready()
    assert server.metric("packager_fetched_bytes_total ") == SIZE
    for phase in ("resolve", "verify", "download", "engine"):
        assert server.metric(f'packager_load_seconds{{phase="{phase}"}}') >= 0
    lines = {line["phase"]: line for line in server.events("loaded")}
    assert list(lines) == ["resolve", "verify", "download", "engine"]
    assert (lines["download"]["bytes"], lines["download"]["files"]) == (SIZE, 1)


def test_its_lease_lasts_from_before_the_first_look_to_the_end(loading):
    server, finish, store = loading
    wait_for_bytes(server)
    (lease,) = living(store)
    assert lease.holder == "hello"
    assert lease.pid in {process.pid for process in server.family()}
    assert prune(store, ALL).parts == []
    finish()
    server.wait_ready()
    (item,) = take_inventory(store).items
    assert len(item.users) == 1
    assert prune(store, ALL).items == []
    server.terminate()
    server.process.wait()
    wait_until(lambda: living(store) == (), "nobody holds it any more")
    assert list(store.root.glob("leases/*.json")) == []
    assert len(prune(store, ALL).items) == 1


def test_a_killed_server_keeps_nothing(loading):
    server, finish, store = loading
    finish()
    server.wait_ready()
    family = server.family()
    for process in family:
        with suppress(psutil.NoSuchProcess):  # what served another one of them has ended with it
            process.kill()
    server.process.wait()
    wait_until(lambda: not any(map(_runs, family)), "they have ended")
    wait_until(lambda: living(store) == (), "their last threads have, too")
    assert len(prune(store, ALL).items) == 1
    assert list(store.root.glob("leases/*.json")) == []
