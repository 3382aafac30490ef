import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.wheels import make_wheel

from packager.command import Completed, run_command
from packager.errors import FetchError, IntegrityError, OutputError
from packager.facts import BaseFacts
from packager.store import Store
from packager.wheels.fetch import fetch_wheels
from packager.wheels.resolve import Wheel, resolve_image


def locked(path: Path) -> Wheel:
    name, version = path.name.split("-")[:2]
    data = path.read_bytes()
    return Wheel(name, version, path.name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_missing_wheels_are_fetched_once(links: Path, store: Store, facts: BaseFacts) -> None:
    # for another platform and Python than any host that runs this
    tags = ["py3-none-any", "cp312-cp312-manylinux_2_17_aarch64", "cp39-abi3-manylinux_2_31_aarch64"]
    arm = replace(facts, architecture="arm64", python="3.12.1")
    paths = [make_wheel(links, f"lib{i}", "1.0+local.1", tag=tag) for i, tag in enumerate(tags * 4)]
    wheels = [locked(path) for path in paths]
    told: dict[str, tuple[int, int]] = {}
    found = fetch_wheels(
        wheels, store, facts=arm, on_bytes=lambda file, have, size: told.__setitem__(file, (have, size))
    )
    assert {sha256: path.read_bytes() for sha256, path in found.items()} == {
        wheel.sha256: path.read_bytes() for wheel, path in zip(wheels, paths, strict=True)
    }
    assert told == {wheel.file: (wheel.size, wheel.size) for wheel in wheels}
    assert list((store.root / "tmp").iterdir()) == []
    for path in paths:
        path.unlink()
    assert fetch_wheels(wheels, store, facts=arm, run=refuse, offline=True) == found


def refuse(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
    raise AssertionError("nothing is missing, so nothing may be run")


def test_offline_names_what_is_missing(store: Store, facts: BaseFacts) -> None:
    wheels = [Wheel(f"lib{i}", "1", f"lib{i}-1-py3-none-any.whl", 1_000_000, f"{i:064x}") for i in range(7)]
    with pytest.raises(FetchError) as caught:
        fetch_wheels(wheels, store, facts=facts, run=refuse, offline=True)
    assert caught.value.problems[0].what == (
        "offline, and the store lacks 7 wheels (7.0 MB): lib0-1-py3-none-any.whl, lib1-1-py3-none-any.whl, "
        "lib2-1-py3-none-any.whl, lib3-1-py3-none-any.whl, lib4-1-py3-none-any.whl and 2 more"
    )
    assert "--offline" in caught.value.problems[0].mend


def test_a_build_with_a_label_does_not_stand_in_for_the_one_without(
    links: Path, store: Store, facts: BaseFacts
) -> None:
    """torch 2.13.0 is locked, and pip finds 2.13.0+cpu too, which `==2.13.0` allows and which counts as newer."""
    wheel = locked(make_wheel(links, "lib", "1.0"))
    make_wheel(links, "lib", "1.0+cpu")
    found = fetch_wheels([wheel], store, facts=facts)
    assert found[wheel.sha256].read_bytes() == (links / wheel.file).read_bytes()


def test_a_version_that_the_files_name_writes_otherwise(links: Path, store: Store, facts: BaseFacts) -> None:
    """An index may say 1.0 of what is 1.0.0 in the file's name, which pip goes by."""
    wheel = replace(locked(make_wheel(links, "lib", "1.0.0")), version="1.0")
    found = fetch_wheels([wheel], store, facts=facts)
    assert found[wheel.sha256].read_bytes() == (links / wheel.file).read_bytes()


def test_a_file_that_is_called_like_no_wheel(clients: None, store: Store, facts: BaseFacts) -> None:
    with pytest.raises(FetchError, match=r"lib-1\.0\.whl: pip takes no wheel that is called so"):
        fetch_wheels([Wheel("lib", "1.0", "lib-1.0.whl", 9, "0" * 64)], store, facts=facts)


def test_other_bytes_under_the_locked_name_are_refused(links: Path, store: Store, facts: BaseFacts) -> None:
    wheel = locked(make_wheel(links, "lib", "1.0"))
    make_wheel(links, "lib", "1.0", {"lib.py": b"evil = 1\n"})
    with pytest.raises(IntegrityError) as caught:
        fetch_wheels([wheel], store, facts=facts)
    assert caught.value.problems[0].where == "lib==1.0"
    assert store.find(wheel.sha256) is None


def test_bytes_that_pip_let_through_are_checked_again(links: Path, store: Store, facts: BaseFacts) -> None:
    wheel = locked(make_wheel(links, "lib", "1.0"))

    def meddle(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
        done = run_command(argv, env=env, cwd=cwd)
        if "--dest" in argv:
            (Path(argv[argv.index("--dest") + 1]) / wheel.file).write_bytes(b"evil")
        return done

    with pytest.raises(IntegrityError) as caught:
        fetch_wheels([wheel], store, facts=facts, run=meddle)
    assert caught.value.problems[0].where == wheel.file
    assert store.find(wheel.sha256) is None


def test_a_wheel_that_is_gone(links: Path, store: Store, facts: BaseFacts) -> None:
    kept = locked(make_wheel(links, "kept", "1.0"))
    with pytest.raises(FetchError) as caught:
        fetch_wheels([Wheel("lib", "1.0", "lib-1.0-py3-none-any.whl", 30_000_000, "0" * 64), kept], store, facts=facts)
    assert caught.value.problems[0].what == "no configured package index has this locked wheel"
    assert caught.value.problems[0].where == "lib==1.0"


def test_an_index_out_of_reach(clients: None, store: Store, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip says nothing of the reason unless it tries again
    with pytest.raises(FetchError) as caught:
        fetch_wheels([Wheel("lib", "1.0", "lib-1.0-py3-none-any.whl", 9, "0" * 64)], store, facts=facts)
    assert caught.value.problems[0].what == "the package index cannot be reached: Connection refused"
    assert "hunter2" not in str(caught.value)


def test_an_interruption_ends_every_pip(clients: None, store: Store, facts: BaseFacts) -> None:
    def slow(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
        if "--dest" not in argv:
            return run_command(argv, env=env, cwd=cwd)
        folder = Path(argv[argv.index("--dest") + 1])
        (folder / f"lib{folder.name}-1-py3-none-any.whl").write_bytes(b"half")
        return run_command([sys.executable, "-c", "import time; time.sleep(600)"])

    def interrupt(file: str, have: int, size: int) -> None:
        assert (have, size) == (4, 30_000_000)
        raise KeyboardInterrupt

    wheels = [Wheel(f"lib{i}", "1", f"lib{i}-1-py3-none-any.whl", 30_000_000, f"{i:064x}") for i in range(9)]
    with pytest.raises(KeyboardInterrupt):  # and not after ten minutes
        fetch_wheels(wheels, store, facts=facts, run=slow, on_bytes=interrupt)
    assert list((store.root / "tmp").iterdir()) == []


def test_counting_bytes_bears_folders_that_come_and_go(links: Path, store: Store, facts: BaseFacts) -> None:
    wheel = locked(make_wheel(links, "lib", "1.0"))

    def restless(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
        if "--dest" in argv:
            folders = [Path(argv[argv.index("--dest") + 1]) / f"pip-{number}" for number in range(100)]
            for _ in range(15):
                for folder in folders:
                    folder.mkdir()
                for folder in folders:
                    folder.rmdir()
        return run_command(argv, env=env, cwd=cwd)

    told: list[tuple[str, int, int]] = []
    fetch_wheels([wheel], store, facts=facts, run=restless, on_bytes=lambda *told_now: told.append(told_now))
    assert told[-1] == (wheel.file, wheel.size, wheel.size)


def test_a_store_that_cannot_be_written(links: Path, tmp_path: Path, facts: BaseFacts) -> None:
    wheel = locked(make_wheel(links, "lib", "1.0"))
    (tmp_path / "tmp").write_bytes(b"a file, not a folder")
    with pytest.raises(OutputError, match="cannot write to the store"):
        fetch_wheels([wheel], Store(tmp_path), facts=facts)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A package index on loopback that tells hashes but no sizes: its folder, its URL, what it was asked."""
    root, asked = tmp_path / "served", []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, *args) -> None: ...

        def do_HEAD(self) -> None:
            asked.append(f"HEAD {self.path}")
            if "shy" in self.path:
                self.send_error(405)
            else:
                super().do_HEAD()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_port}/simple/", asked
        server.shutdown()
        thread.join()


def test_sizes_that_the_index_does_not_tell(
    clients: None, served: tuple[Path, str, list[str]], facts: BaseFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, url, asked = served
    wheels = []
    for name in ("lib", "shy"):
        path = make_wheel(root / "files", name, "1.0+x", requires=["shy"] if name == "lib" else [])
        wheels.append(locked(path))
        page = root / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../files/{path.name}#sha256={wheels[-1].sha256}">{path.name}</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    assert resolve_image(["lib"], facts) == tuple(wheels)
    assert [line for line in asked if "lib-" in line]
