"""packager fetch, and its twin in the container: the store has all that load() needs, or an error says what it lacks."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.cli import packager
from fakes.locks import make_lock
from fakes.packages import make_package
from fakes.stores import loading_package, write_weights
from fakes.web import Status, Web

from packager.lock.lockfile import WeightsLock
from packager.manifest import MANIFEST_PATH, WeightsFile, WeightsManifest, read_manifest
from packager.spec.load import load_spec
from packager.store import Store
from packager.weights.load import ensure_weights
from packager.weights.watch import Watch

A, B = b"a" * 1000, b"b" * 20


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def fetch(tmp_path, store):
    def run(*argv, **env):
        return packager("fetch", *argv, cwd=tmp_path, cache=store.root, env=env)

    return run


@pytest.fixture
def source(tmp_path):
    return write_weights(tmp_path / "source", a=A, b=B)


@pytest.fixture
def package(tmp_path, source):
    return loading_package(tmp_path / "dist/hello", source)


def files(store):
    return sorted(path.name for path in store.root.glob("sha256/*/*"))


class TestPackages:
    @pytest.mark.parametrize("named", ["hello", "dist/hello"])
    def test_by_name_or_folder(self, fetch, store, package, source, named):
        done = fetch(named)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"fetched            1,000  {sha256(A)[:12]}  file://{source}/a.bin",
            f"fetched               20  {sha256(B)[:12]}  file://{source}/b.bin",
            "hello: fetched 1,020 bytes, found 0 bytes",
        ]
        assert done.stderr.splitlines()[-1] == f"the store is {store.root}"
        assert files(store) == sorted([sha256(A), sha256(B)])
        assert list(store.root.glob("leases/*.json")) == []

    def test_what_is_there_is_found_and_what_is_damaged_is_fetched(self, fetch, store, package):
        fetch("hello")
        path = store.path(sha256(A))
        path.chmod(0o644)
        path.write_bytes(A[::-1] + b"!")
        lines = fetch("hello").stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["fetched", "found", "hello:"]
        assert path.read_bytes() == A

    def test_several_into_another_store(self, fetch, package, tmp_path):
        other = loading_package(tmp_path / "dist/other", write_weights(tmp_path / "more", b=B, c=b"c"), name="other")
        value = json.loads(fetch("hello", other, "--store", tmp_path / "carried", "--json").stdout)
        assert value["store"] == str(tmp_path / "carried")
        assert [(one["package"], one["bytes"]["fetched"], one["bytes"]["found"]) for one in value["packages"]] == [
            ("hello", 1020, 0),
            ("other", 1, 20),
        ]
        assert files(Store(tmp_path / "carried")) == sorted([sha256(A), sha256(B), sha256(b"c")])

    def test_nothing_to_fetch(self, fetch, store, tmp_path, source):
        make_package(tmp_path / "dist/echo", vendored=False)
        make_package(tmp_path / "dist/inside", weights=source, vendored=False)
        assert fetch("dist/echo").stdout == "hello has no weights: there is nothing to fetch\n"
        assert fetch("dist/inside").stdout == "hello has its weights in the package: there is nothing to fetch\n"

    def test_a_tokenizer_from_elsewhere_comes_too(self, fetch, store, package):
        with Web({"t/tokenizer.json": b"[]"}) as web:
            manifest = read_manifest(package)
            beside = (WeightsFile("tokenizer.json", 2, sha256(b"[]")),)
            tokenizer = WeightsManifest(f"{web.url}/t/", "", "on_load", ".", beside)
            (package / MANIFEST_PATH).write_bytes(replace(manifest, tokenizer=tokenizer).to_bytes())
            done = fetch("hello")
            assert done.returncode == 0, done.stderr
            assert f"{sha256(b'[]')[:12]}  {web.url}/t/tokenizer.json" in done.stdout
        assert files(store) == sorted([sha256(A), sha256(B), sha256(b"[]")])
        (tree,) = (store.root / "trees").iterdir()
        assert sorted(path.name for path in tree.iterdir()) == ["a.bin", "b.bin", "tokenizer.json"]

    def test_many_files_are_summed_up(self, fetch, tmp_path):
        many = write_weights(tmp_path / "many", **{f"f{number:03}": b"%d" % number for number in range(50)})
        loading_package(tmp_path / "dist/many", many, name="many")
        done = fetch("many")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 22
        assert lines[-2] == "and 30 more (--json lists all)"
        assert lines[-1] == "many: fetched 90 bytes, found 0 bytes"


class TestRefusals:
    def test_no_such_name(self, fetch, package):
        done = fetch("helo")
        assert (done.returncode, done.stderr) == (
            1,
            "error: helo: no package, spec or catalog entry has this name\n  mend: dist has hello\n",
        )

    def test_a_spec_without_a_lock(self, fetch, tmp_path):
        (tmp_path / "spec").mkdir()
        (tmp_path / "spec/packager.yaml").write_text("name: hello\nengine: {kind: echo}\n")
        done = fetch("spec")
        assert done.returncode == 1
        assert "there is no lock" in done.stderr
        assert "run `packager lock`" in done.stderr

    def test_offline(self, fetch, store, tmp_path, source):
        with Web({"a.bin": A, "b.bin": B}) as web:
            loading_package(tmp_path / "dist/remote", source, address=f"{web.url}/", name="remote")
            done = fetch("remote", PACKAGER_OFFLINE="1")
            assert web.requests == []
            assert done.returncode == 1
            assert f"error: {store.root}: 2 of 2 files are not in the store, and PACKAGER_OFFLINE=1: a.bin, b.bin" in (
                done.stderr
            )
            assert "mend: fill the store with `packager fetch`" in done.stderr
            assert fetch("remote").returncode == 0
            asked = len(web.requests)
            assert fetch("remote", PACKAGER_OFFLINE="1").returncode == 0
            assert len(web.requests) == asked

    def test_a_source_that_lost_a_file(self, fetch, package, source):
        (source / "a.bin").unlink()
        done = fetch("hello")
        assert done.returncode == 1
        assert f"{source}/a.bin" in done.stderr
        assert "mend: " in done.stderr


def test_a_locked_spec(fetch, store, tmp_path, source):
    """From a spec's lock, before anything is built."""
    spec, weights = tmp_path / "spec", (WeightsFile("a.bin", len(A), sha256(A)),)
    spec.mkdir()
    text = f"name: hello\nengine: {{kind: llama_cpp}}\nweights: {{source: 'file://{source}', ship: on_load, file: a.bin}}\n"
    (spec / "packager.yaml").write_text(text)
    lock = make_lock(load_spec(spec).spec, weights=WeightsLock(f"file://{source}", "", weights))
    (spec / "packager.lock").write_bytes(lock.to_bytes())
    done = fetch("spec")
    assert done.stdout.splitlines()[-1] == "hello: fetched 1,000 bytes, found 0 bytes", done.stderr
    assert files(store) == [sha256(A)]
    (spec / "packager.yaml").write_text(text.replace("llama_cpp", "transformers").replace(", file: a.bin", ""))
    done = fetch("spec")
    assert done.returncode == 1
    assert "packager.lock" in done.stderr


class TestInTheContainer:
    @pytest.fixture
    def run(self, tmp_path, store):
        """`python -m packager_runtime.fetch` with nothing but the package itself in reach."""

        def run(package, *argv, **env):
            return subprocess.Popen(
                [sys.executable, "-m", "packager_runtime.fetch", str(package), *map(str, argv)],
                cwd=tmp_path,
                env={
                    "PATH": os.environ["PATH"],
                    "PACKAGER_CACHE": str(store.root),
                    "PYTHONPATH": str(Path(package) / "packages"),
                    **env,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        return run

    def test_it_fills_the_store_and_ends(self, run, store, tmp_path, source):
        package = loading_package(tmp_path / "package", source, vendored=True)
        with run(package) as process:
            out, err = process.communicate()
        lines = [json.loads(line) for line in err.splitlines()]
        assert (process.returncode, out) == (0, "")
        assert [line["phase"] for line in lines if line["event"] == "loaded"] == ["resolve", "verify", "download"]
        assert lines[-1] | {"time": ""} == {
            "time": "",
            "level": "info",
            "event": "fetched",
            "model": "hello",
            "store": str(store.root),
            "files": 2,
            "fetched": 1020,
            "found": 0,
        }
        assert files(store) == sorted([sha256(A), sha256(B)])
        assert len(list(store.root.glob("trees/*"))) == 1, "for a read-only mount of it"

    def test_a_load_from_what_it_fetched_reads_nothing_again(self, run, store, tmp_path, source):
        """Small files neither: a load from a read-only mount cannot note what it has hashed."""
        package = loading_package(tmp_path / "package", source, vendored=True)
        with run(package) as process:
            process.communicate()
        read = []

        class Told(Watch):
            def on_bytes(self, title, done, total):
                read.append(title)

        ensure_weights(read_manifest(package), package, store, watch=Told())
        assert read == []

    def test_another_store(self, run, store, tmp_path, source):
        with run(
            loading_package(tmp_path / "package", source, vendored=True), "--store", tmp_path / "image"
        ) as process:
            process.communicate()
        assert process.returncode == 0
        assert len(files(Store(tmp_path / "image"))) == 2

    @pytest.mark.parametrize("broken", ["package", "source"])
    def test_a_failure_is_one_line(self, run, store, tmp_path, source, broken):
        package = loading_package(tmp_path / "package", source, vendored=True)
        (package / "model/manifest.json" if broken == "package" else source / "a.bin").unlink()
        with run(package) as process:
            _, err = process.communicate()
        *_, last = [json.loads(line) for line in err.splitlines()]
        assert process.returncode == 1
        assert (last["level"], last["event"]) == ("error", "failed")
        assert str(tmp_path) in last["reason"]
        assert last["mend"]

    @pytest.mark.parametrize("variable", ["PACKAGER_LOG_LEVEL", "PACKAGER_CACHE"])
    def test_an_environment_that_says_nothing_is_one_line_too(self, run, tmp_path, source, variable):
        (tmp_path / "bogus").symlink_to(tmp_path / "gone")
        with run(loading_package(tmp_path / "package", source, vendored=True), **{variable: "bogus"}) as process:
            _, err = process.communicate()
        (line,) = [json.loads(line) for line in err.splitlines()]
        assert (process.returncode, line["event"]) == (1, "failed")
        assert line["reason"].startswith("PACKAGER_LOG_LEVEL: it is" if "LOG" in variable else "bogus: the folder")
        assert line["mend"]

    def test_killed_it_goes_on_where_it_broke_off(self, run, store, tmp_path):
        """kill -9 in the midst of a file; the next run asks for the rest of it alone."""
        data = os.urandom(24 << 20)
        source = tmp_path / "big"
        source.mkdir()
        (source / "big.bin").write_bytes(data)
        held, reached = threading.Event(), threading.Event()

        def hold(request):
            if request.start and request.start >= 8 << 20 and not held.is_set():
                reached.set()
                held.wait()
                return Status(503)
            return None

        with Web({"big.bin": data}) as web:
            web.faults = hold
            package = loading_package(tmp_path / "package", source, address=f"{web.url}/", vendored=True)
            with run(package) as process:
                part = store.root / "parts" / f"{sha256(data)}.journal"
                assert reached.wait(120)
                while not (part.exists() and part.read_bytes().count(b"\n") > 3):
                    assert process.poll() is None, process.stderr.read()
                process.send_signal(signal.SIGKILL)
            held.set()
            listed = packager("store", "list", cwd=tmp_path, cache=store.root).stdout.splitlines()
            assert "unfinished" in listed[0]
            assert listed[0].endswith(f"{web.url}/big.bin of {len(data):,}")
            before = web.sent
            done = packager("fetch", package, cwd=tmp_path, cache=store.root)
            assert done.returncode == 0, done.stderr
            assert "of them came with an earlier attempt or another process" in done.stdout
            assert web.sent - before < len(data)
        assert files(store) == [sha256(data)]
        assert read_manifest(package).weights.files[0].sha256 == sha256(data)
