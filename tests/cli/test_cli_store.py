"""packager store: what is said about the store, as text and as JSON, and what is refused."""

import json
import os
import time

import click
import pytest
from fakes.cli import packager
from fakes.stores import loading_package, write_weights

from packager.cli.progress import Progress
from packager.cli.tools import make_tools
from packager.fetch import fetch_package
from packager.manifest import read_manifest
from packager.store import Store
from packager.weights.claim import take_claim
from packager.weights.leases import leased, living


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def say(tmp_path, store):
    def run(*argv):
        return packager("store", *argv, cwd=tmp_path, cache=store.root)

    return run


@pytest.fixture
def weights(tmp_path, store):
    """The sha256 of two files of weights that a package has loaded."""
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a" * 1000, b=b"b" * 20))
    manifest = read_manifest(package)
    fetch_package(manifest, store)
    return {file.path: file.sha256 for file in manifest.weights.files}


def damage(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1] + b"!")


def aged(path, days):
    then = time.time() - days * 86400
    os.utime(path, (then, then))


class TestList:
    def test_an_empty_store(self, say, store):
        done = say("list")
        assert done.returncode == 0
        assert done.stdout.startswith(f"0 files, 0 bytes, in {store.root}; ")
        assert not store.root.exists(), "looking makes nothing"

    def test_files_with_names_sizes_and_users(self, say, store, weights, tmp_path):
        wheel = store.put([b"PK\x03\x04" + b"w" * 96], name="torch-2.0.whl").sha256
        with leased(store, "other", {weights["b.bin"]: "b.bin"}):
            lines = say("list").stdout.splitlines()
        assert [line.split()[:2] for line in lines[:3]] == [
            ["1,000", weights["a.bin"][:12]],
            ["100", wheel[:12]],
            ["20", weights["b.bin"][:12]],
        ]
        assert lines[0].endswith(f"file://{tmp_path}/source/a.bin")
        assert " wheel " in lines[1]
        assert lines[1].endswith(" torch-2.0.whl")
        assert f"  used by other (pid {os.getpid()} on " in lines[2]
        assert lines[3].startswith(f"in use: 1 file by other (pid {os.getpid()} on ")
        assert lines[4].startswith(f"3 files, 1,120 bytes, in {store.root}; ")

    def test_sorted_by_last_use(self, say, store, weights):
        aged(store.path(weights["a.bin"]), 3)
        lines = say("list", "--sort", "used").stdout.splitlines()
        assert [line.split()[1] for line in lines[:2]] == [weights["b.bin"][:12], weights["a.bin"][:12]]

    def test_unfinished_fetches(self, say, store):
        claim = take_claim(store.root / "parts", "c" * 64, 40960)
        with claim.part.open("wb") as part:
            part.write(b"x" * 8192)
            part.truncate(40960)
        line = say("list").stdout.splitlines()[0]
        assert line.split()[:3] == ["8,192", "c" * 12, "unfinished"]
        assert line.endswith(" of 40,960, being fetched")
        claim.release(done=False)
        assert say("list").stdout.splitlines()[0].endswith(" of 40,960")

    def test_json(self, say, store, weights):
        with leased(store, "hello", {weights["b.bin"]: "b.bin"}):
            value = json.loads(say("list", "--json").stdout)
        assert value["bytes"] == 1020
        found = {one["sha256"]: one for one in value["files"]}
        assert found[weights["b.bin"]]["users"] == [user for one in value["files"] for user in one["users"]]
        assert found[weights["a.bin"]]["kind"] == "weights"
        assert [(one["holder"], one["pid"], one["files"]) for one in value["leases"]] == [
            ("hello", os.getpid(), [weights["b.bin"]])
        ]
        assert value["free"] > 0


class TestVerify:
    def test_all_intact(self, say, weights):
        done = say("verify")
        assert (done.returncode, done.stdout) == (0, "2 files, 1,020 bytes: all intact\n")

    def test_damage_is_named_and_fails(self, say, store, weights):
        path = store.path(weights["a.bin"])
        damage(path)
        done = say("verify")
        assert done.returncode == 1
        assert f"error: {path}: file://" in done.stderr
        assert "a.bin (1,001 bytes) is damaged: its bytes have sha256 " in done.stderr
        assert "mend: remove it with `packager store verify --remove`" in done.stderr
        assert path.exists()

    def test_removing_it(self, say, store, weights):
        path = store.path(weights["a.bin"])
        damage(path)
        done = say("verify", "--remove", "--json")
        assert done.returncode == 1, "it was damaged"
        (row,) = json.loads(done.stdout)["damaged"]
        assert (row["sha256"], row["removed"]) == (weights["a.bin"], True)
        assert "it was removed" in done.stderr
        assert not path.exists()
        assert say("verify").returncode == 0

    def test_what_is_used_stays(self, say, store, weights):
        path = store.path(weights["a.bin"])
        damage(path)
        with leased(store, "hello", {weights["a.bin"]: "a.bin"}):
            done = say("verify", "--remove")
        assert done.returncode == 1
        assert f"used by hello (pid {os.getpid()}" in done.stderr
        assert "mend: stop what uses it, then" in done.stderr
        assert path.exists()


class TestPrune:
    def test_what_is_new_stays(self, say, store, weights):
        aged(store.path(weights["a.bin"]), 31)
        done = say("prune")
        assert done.returncode == 0
        first, last = done.stdout.splitlines()
        assert first.startswith("removed  ")
        assert weights["a.bin"][:12] in first
        assert last == "freed 1,000 bytes: 1 file, 1 tree"
        assert [path.name for path in store.root.glob("sha256/*/*")] == [weights["b.bin"]]

    def test_older_than(self, say, store, weights):
        aged(store.path(weights["a.bin"]), 3)
        assert say("prune", "--older-than", "4d").stdout == "freed 0 bytes: 0 files\n"
        assert say("prune", "--older-than", "48h").stdout.splitlines()[-1].startswith("freed 1,000 bytes: 1 file")

    @pytest.mark.parametrize("age", ["3", "3x", "-1d", "d", "1.5h", ""])
    def test_what_is_no_time(self, say, age):
        done = say("prune", "--older-than", age)
        assert done.returncode == 2
        assert f"'{age}' is no time: write a number and m, h, d or w, such as 30d" in done.stderr

    def test_a_dry_run(self, say, store, weights):
        done = say("prune", "--all", "--dry-run")
        assert [line.split("  ")[0] for line in done.stdout.splitlines()[:-1]] == ["would go", "would go"]
        assert done.stdout.splitlines()[-1].startswith("would free 1,020 bytes: 2 files, 1 tree")
        assert len(list(store.root.glob("sha256/*/*"))) == 2

    def test_what_a_process_uses_stays_and_is_said(self, say, store, weights):
        with leased(store, "hello", {weights["a.bin"]: "a.bin"}):
            done = say("prune", "--all", "--json")
            said = say("prune", "--all").stderr
        value = json.loads(done.stdout)
        assert [one["sha256"] for one in value["files"]] == [weights["b.bin"]]
        assert [one["sha256"] for one in value["kept"]] == [weights["a.bin"]]
        assert said.startswith(f"kept 1 file, 1,000 bytes, in use by hello (pid {os.getpid()} on ")

    def test_not_while_a_build_runs(self, say, store, weights):
        with leased(store, "packager build", None):
            done = say("prune", "--all")
        assert done.returncode == 1
        assert f"packager build (pid {os.getpid()} on " in done.stderr
        assert "mend: prune it when that has ended" in done.stderr

    def test_keep_parts(self, say, store):
        take_claim(store.root / "parts", "c" * 64, 40960).release(done=False)
        assert say("prune", "--all", "--keep-parts").stdout == "freed 0 bytes: 0 files\n"
        assert say("prune", "--all").stdout.splitlines()[-1] == "freed 0 bytes: 0 files, 1 unfinished part"


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_a_folder_that_is_not_there(say, tmp_path, command):
    done = say(command, "--store", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/none: there is no such folder\n  mend: ")


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_what_is_no_folder(tmp_path, command):
    file = tmp_path / "file"
    file.touch()
    done = packager("store", command, cwd=tmp_path, cache=file)
    assert done.returncode == 1
    assert done.stderr == f"error: {file}: this is no folder\n  mend: set PACKAGER_CACHE to a folder\n"


def test_another_folder(say, store, weights, tmp_path):
    store.root.rename(tmp_path / "moved")
    assert say("list", "--store", tmp_path / "moved").stdout.splitlines()[-1].startswith("2 files, ")


def test_a_command_that_needs_what_it_cannot_name_holds_the_whole_store(store, monkeypatch):
    monkeypatch.setenv("PACKAGER_CACHE", str(store.root))
    with click.Context(click.Command("build"), info_name="build"):
        make_tools(Progress())
        (lease,) = living(store)
        assert (lease.holder, lease.files) == ("packager build", None)
    assert living(store) == ()
