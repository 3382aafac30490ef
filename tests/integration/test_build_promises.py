"""What a build promises, tried on the real thing: real wheels, real Debian packages, real processes.

The echo example is built for each: it has everything but weights. `hello` has its own file.
"""

import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.cli import ROOT, build, environment, packager

from packager.oci.layout import read_layout
from packager.oci.members import gunzip
from packager.package.output import hold

pytestmark = [pytest.mark.network, pytest.mark.slow]

SPEC = ROOT / "examples" / "echo" / "packager.yaml"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A folder with the echo spec and its lock, everything it needs in the shared store."""
    folder = tmp_path_factory.mktemp("locked")
    shutil.copy(SPEC, folder)
    done = packager("lock", folder, cwd=folder, cache=shared_cache)
    assert done.returncode == 0, done.stderr
    return folder


def copy_spec(locked: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in ("packager.yaml", "packager.lock"):
        shutil.copy(locked / name, target)
    return target


def cold(cache: Path, target: Path) -> Path:
    """The same store without its memos: every layer is digested anew."""
    target.mkdir(parents=True)
    (target / "sha256").symlink_to(cache / "sha256")
    return target


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and sha256 of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode & 0o777,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    }


def test_two_builds_anywhere_give_the_same_bytes(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    """Other folder, umask, time zone, locale, hash seed and thread count; no digest remembered in either."""
    here = copy_spec(locked, tmp_path / "here")
    there = copy_spec(locked, tmp_path / "some where else" / "deeper")
    one = build(
        here, "--locked", "--offline", cwd=here, cache=cold(shared_cache, tmp_path / "c1"),
        env={"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}, prefix=("taskset", "-c", "0"),
    )  # fmt: skip
    two = build(
        there, "--locked", "--offline", cwd=there, cache=cold(shared_cache, tmp_path / "c2"),
        env={"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "4242"},
        prefix=("sh", "-c", 'umask 077; exec "$0" "$@"'),
    )  # fmt: skip
    assert one["manifest_digest"] == two["manifest_digest"]
    assert fingerprint(here / "dist/echo.oci/blobs") == fingerprint(there / "dist/echo.oci/blobs")
    assert fingerprint(here / "dist/echo") == fingerprint(there / "dist/echo")


def test_an_offline_build_needs_no_program_and_no_network(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    spec = copy_spec(locked, tmp_path / "spec")
    programs = tmp_path / "programs"
    programs.mkdir()
    dpkg = shutil.which("dpkg-deb")
    if dpkg and platform.freedesktop_os_release()["ID"] == "ubuntu":
        (programs / "dpkg-deb").symlink_to(dpkg)  # Ubuntu's packages are zstd, which Python knows from 3.14 on
    env = {"PATH": str(programs), "PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/"}
    build(spec, "--offline", cwd=spec, cache=shared_cache, env=env)


def test_secrets_never_land_in_package_or_image(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    spec = copy_spec(locked, tmp_path / "spec")
    home = tmp_path / "home"
    plant = {
        home / ".netrc": "machine example.com login me password PLANTED7-netrc",
        home / ".cache/huggingface/token": "PLANTED7-hub-token",
        home / ".docker/config.json": '{"auths": {"example.com": {"auth": "Q0FOQVJZ"}}, "note": "PLANTED7-docker"}',
        spec / ".git/config": "[remote] url = https://PLANTED7-git@example.com/",
        spec / ".env": "SECRET=PLANTED7-dotenv",
        spec / "notes.txt": "PLANTED7-notes",
    }
    for path, text in plant.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {"HOME": str(home), "HF_TOKEN": "PLANTED7-env", "AWS_SECRET_ACCESS_KEY": "PLANTED7-aws"}
    built = build(spec, cwd=spec, cache=shared_cache, env=env)
    package = spec / built["package"]
    (package / ".env").write_text("SECRET=PLANTED7-package-dotenv")
    (package / ".git").mkdir()
    (package / ".git/config").write_text("PLANTED7-package-git")
    build(package, cwd=spec, cache=shared_cache, env=env)
    found = [name for name, data in everything(spec / built["layout"]) if b"PLANTED7" in data]
    found += [
        str(path)
        for path in package.rglob("*")
        if path.is_file() and ".git" not in path.parts and path.name != ".env" and b"PLANTED7" in path.read_bytes()
    ]
    assert found == []


def everything(layout: Path) -> "list[tuple[str, bytes]]":
    """Every byte of an image: its JSON files, and each layer unpacked, whatever its compression."""
    image = read_layout(layout)
    rows = [("manifest", image.manifest), ("config", image.config)]
    rows += [(path.name, path.read_bytes()) for path in layout.iterdir() if path.is_file()]
    rows += [(layer.title, b"".join(gunzip(layer.blob.open()))) for layer in image.layers]
    return rows


def test_kill_at_any_moment_leaves_the_old_result_or_the_new(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    """The spec flips between two greetings; whatever was killed, package and layout are whole and known."""
    spec = copy_spec(locked, tmp_path / "spec")
    texts = [
        (spec / "packager.yaml").read_text() + f"image: {{env: {{GREETING: {word}}}}}\n" for word in ("one", "two")
    ]
    known = {}
    start = time.monotonic()
    for text in texts:
        (spec / "packager.yaml").write_text(text)
        known[text] = build(spec, cwd=spec, cache=shared_cache)["manifest_digest"]
    usual = (time.monotonic() - start) / 2
    chance = random.Random(20261120)
    outcomes = set()
    for number in range(24):
        wanted = texts[number % 2]
        (spec / "packager.yaml").write_text(wanted)
        argv = [sys.executable, "-m", "packager", "build", str(spec), "--no-docker", "--quiet"]
        child = subprocess.Popen(argv, cwd=spec, env=environment(shared_cache), stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, usual * 1.1))
        child.send_signal(signal.SIGINT if number % 6 == 5 else signal.SIGKILL)
        child.wait()
        image = read_layout(spec / "dist/echo.oci", verify=True)
        assert image.manifest_digest in known.values()
        check = subprocess.run(["sha256sum", "--check", "--quiet", "files.sha256"], cwd=spec / "dist/echo", check=False)
        assert check.returncode == 0
        outcomes.add(image.manifest_digest == known[wanted])
    (spec / "packager.yaml").write_text(texts[0])
    assert build(spec, cwd=spec, cache=shared_cache)["manifest_digest"] == known[texts[0]]
    left = [path.name for path in (spec / "dist").iterdir() if path.name not in {"echo", "echo.oci", ".echo.lock"}]
    assert left == []


def test_a_second_build_waits_for_the_first(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    spec = copy_spec(locked, tmp_path / "spec")
    argv = [sys.executable, "-m", "packager", "build", str(spec), "--no-docker"]
    with hold(spec / "dist", "echo"):
        child = subprocess.Popen(argv, cwd=spec, env=environment(shared_cache), stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = child.stderr.readline()
        assert f"waiting for another packager (process {os.getpid()})" in said
        assert not (spec / "dist/echo").exists()
    child.communicate()
    assert child.returncode == 0
    assert (spec / "dist/echo/model/manifest.json").is_file()


def test_an_edit_uploads_less_than_a_megabyte(locked: Path, shared_cache: Path, tmp_path: Path, registry: str) -> None:
    spec = copy_spec(locked, tmp_path / "spec")
    build(spec, "--repository", f"{registry}/team", cwd=spec, cache=shared_cache)
    first = packager("push", f"{registry}/team/echo", "--json", cwd=spec, cache=shared_cache)
    assert first.returncode == 0, first.stderr
    with (spec / "dist/echo/service.py").open("a") as file:
        file.write("# one more line\n")
    build("dist/echo", cwd=spec, cache=shared_cache)
    second = packager("push", "dist/echo.oci", "--json", cwd=spec, cache=shared_cache)
    assert second.returncode == 0, second.stderr

    assert json.loads(second.stdout)["uploaded_bytes"] < 1_000_000
    assert json.loads(first.stdout)["uploaded_bytes"] > 10_000_000


def test_a_dry_run_shows_the_plan_of_a_spec_and_of_a_package(locked: Path, shared_cache: Path, tmp_path: Path) -> None:
    spec = copy_spec(locked, tmp_path / "spec")
    asked = packager("build", spec, "--dry-run", cwd=spec, cache=shared_cache)
    assert not (spec / "dist").exists()
    build(spec, cwd=spec, cache=shared_cache)
    again = packager("build", "dist/echo", "--dry-run", cwd=spec, cache=shared_cache)
    one, two = json.loads(asked.stdout)["image"], json.loads(again.stdout)["image"]
    assert one["wheels"] == two["wheels"]
    assert one["config"] == two["config"]
    assert one["package"] == two["package"]
