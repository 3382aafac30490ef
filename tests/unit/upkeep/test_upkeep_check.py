"""Checking the store, and what its inventory says of each file."""

import os
import time

import pytest
from fakes.stores import loading_package, write_weights

from packager.fetch import fetch_package
from packager.manifest import read_manifest
from packager.store import Store
from packager.upkeep.check import check_files, remove_damaged
from packager.upkeep.inventory import take_inventory
from packager.weights.claim import take_claim
from packager.weights.identity import file_digest
from packager.weights.leases import leased
from packager.weights.load import ensure_weights


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def damage(path, data):
    path.chmod(0o644)
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(0o444)


def check(store, on_bytes=lambda *_: None):
    return check_files(store, take_inventory(store).items, on_bytes)


def test_damaged_files_are_found_whatever_is_remembered(store):
    good, bad = store.put([b"good" * 500_000]), store.put([b"bad" * 500_000])
    assert file_digest(bad.path, store) == bad.sha256
    damage(bad.path, b"dab" * 500_000)
    assert file_digest(bad.path, store) == bad.sha256, "the same size, inode and times: only reading tells"
    (found,) = check(store)
    assert (found.item.sha256, found.removed) == (bad.sha256, False)
    assert found.why.startswith("its bytes have sha256 ")
    assert file_digest(bad.path, store) != bad.sha256, "the next load knows"
    assert good.path.exists()
    assert bad.path.exists()


@pytest.mark.parametrize("size", [1000, 2_000_000])
def test_the_next_load_does_not_take_what_was_found_damaged(store, tmp_path, size):
    """Also where it was not removed: it was in use, or nobody asked for that."""
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a" * size, b=b"b"))
    manifest = read_manifest(package)
    for _ in range(3):  # the third finds all as it was at the second
        root = ensure_weights(manifest, package, store)
    damage((root / "a.bin").resolve(), b"x" * size)
    assert (ensure_weights(manifest, package, store) / "a.bin").read_bytes() == b"x" * size, "nobody has looked"
    assert len(check(store)) == 1
    assert (ensure_weights(manifest, package, store) / "a.bin").read_bytes() == b"a" * size


def test_removing_leaves_what_a_process_uses(store):
    used, free = store.put([b"used"]), store.put([b"free"])
    damage(used.path, b"xxxx")
    damage(free.path, b"yyyy")
    with leased(store, "hello", {used.sha256: "a.bin"}):
        done = {one.item.sha256: one for one in remove_damaged(store, check(store))}
    assert done[free.sha256].removed
    assert not done[used.sha256].removed
    assert [user.split(" (")[0] for user in done[used.sha256].users] == ["hello"]
    assert (free.path.exists(), used.path.exists()) == (False, True)


def test_a_file_that_vanishes_is_no_damage_and_a_link_is(store, tmp_path):
    gone, link = store.put([b"gone"]), store.put([b"link"])
    items = take_inventory(store).items
    gone.path.unlink()
    link.path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"link")
    link.path.symlink_to(tmp_path / "elsewhere")
    (found,) = check_files(store, items, lambda *_: None)
    assert found.item.sha256 == link.sha256
    assert "cannot be read" in found.why


def test_progress_counts_all_bytes(store):
    store.put([b"a" * 3_000_000])
    store.put([b"b" * 2_000_000])
    told = []
    check(store, lambda *event: told.append(event))
    assert told[-1] == ("files", 5_000_000, 5_000_000)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_checking_is_no_use(store):
    path = store.put([b"old"]).path
    then = time.time() - 10 * 86400
    os.utime(path, (then, then))
    assert check(store) == ()
    assert take_inventory(store).items[0].used == pytest.approx(then, abs=1)


def test_the_inventory_names_what_it_can(store, tmp_path):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"weights"))
    fetch_package(read_manifest(package), store)
    store.put([b"PK\x03\x04..."], name="torch-2.0.whl")
    store.put([b"!<arch>\ndeb"], name="/somewhere/libc6_2_amd64.deb")
    store.put([b"\x1f\x8b..."], name="debian bookworm")
    store.put([b"{}"], name="registry.example.com/base")
    found = {item.name: item.kind for item in take_inventory(store).items}
    assert found == {
        f"file://{tmp_path}/source/a.bin": "weights",
        "torch-2.0.whl": "wheel",
        "libc6_2_amd64.deb": "Debian package",
        "debian bookworm": "layer",
        "registry.example.com/base": "image",
    }


def test_names_from_a_tree_where_no_package_was_loaded(store, tmp_path):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"weights"))
    fetch_package(read_manifest(package), store)
    for memo in store.root.glob("memo/*/*"):
        memo.unlink()
    assert [item.name for item in take_inventory(store).items] == ["a.bin"]


def test_an_unfinished_fetch_says_how_much_of_it_is_there(store):
    sha256 = "a" * 64
    claim = take_claim(store.root / "parts", sha256, 50_000_000)
    with claim.part.open("wb") as part:
        part.truncate(50_000_000)
        part.write(b"x" * 8_192_000)
    (live,) = take_inventory(store).parts
    claim.release(done=False)
    (dead,) = take_inventory(store).parts
    assert (live.live, dead.live) == (True, False)
    assert (dead.sha256, dead.size) == (sha256, 50_000_000)
    assert 8_192_000 <= dead.done < 9_000_000


def test_users_are_those_whose_lease_names_the_file(store):
    one, two = store.put([b"one"]), store.put([b"two"])
    with leased(store, "first", {one.sha256: "a"}), leased(store, "second", {one.sha256: "a"}):
        users = {item.sha256: item.users for item in take_inventory(store).items}
    assert sorted(user.split(" (")[0] for user in users[one.sha256]) == ["first", "second"]
    assert users[two.sha256] == ()
    assert f"pid {os.getpid()} on " in users[one.sha256][0]
