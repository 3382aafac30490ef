"""A vendor's image as the base: another Python than Debian 12's, with packages and an engine in it.

The vendor's image is a stand-in made of real parts: Debian 13's packages (Python 3.13) and real wheels, pushed to
a real registry on loopback.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import ROOT, build, packager
from fakes.machine import free_port, missing, wait_for_port
from test_image_tools import Docker, stream, wait_until_ready

from packager.command import run_command
from packager.debian import build_rootfs, fetch_packages, python_facts, resolve_packages
from packager.debian.rootfs import RootEntry
from packager.facts import BaseFacts
from packager.oci.content import Content, DeflatedContent, FileContent, InlineContent
from packager.oci.image import Image, ImageConfig, make_image
from packager.oci.layer import Layer, make_layer
from packager.oci.layout import read_layout
from packager.oci.reference import Reference, parse_reference
from packager.oci.registry import pull_image, push_image
from packager.oci.tar import Entry
from packager.recipes.llama_cpp import RECIPE as LLAMA_CPP
from packager.store import Store
from packager.wheels.fetch import fetch_wheels
from packager.wheels.read import InstalledFile, ZipMember, read_wheel
from packager.wheels.resolve import resolve_image

pytestmark = [pytest.mark.network, pytest.mark.registry, pytest.mark.slow]

SERVER = ("orjson==3.11.3", "uvicorn==0.35.0")
"""In the vendor's image: what our server needs, at versions that satisfy it but that no index would give today."""
ENGINE = f"xllamacpp=={LLAMA_CPP.default_version}"


class Vendor:
    """Who makes base images: Debian 13 below, `pip install`ed wheels above."""

    def __init__(self, folder: Path, cache: Path) -> None:
        keyring = Path("/usr/share/keyrings/debian-archive-trixie-stable.gpg")
        if not shutil.which("apt-get") or not keyring.exists():
            missing("this machine has no apt that knows the keys of Debian 13 (package debian-archive-keyring)")
        listed = run_command(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"])
        mirror = next((row.split()[1] for row in listed.stdout.split("\n") if row.startswith("bookworm ")), "")
        if not mirror:
            missing("this machine's apt sources have no Debian 12 whose mirror could serve Debian 13")
        self.folder, self.store = folder, Store(cache)
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by={keyring.parent}/debian-archive-keyring.gpg] {mirror} trixie main\n")
        options = ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"]

        def run(argv, *, env=None, cwd=None):
            return run_command([argv[0], *options, *argv[1:]], env=env, cwd=cwd)

        names = ("ca-certificates", "libgomp1", "libstdc++6", "python3")
        state = cache / "debian-trixie"
        release, packages = resolve_packages(names, architecture="amd64", state=state, mirror=None, run=run)
        found = fetch_packages(packages, self.store, mirror=None, run=run, offline=False, on_bytes=lambda _: None)
        archives = {package: found[package.sha256] for package in packages}
        rows = build_rootfs(archives, release, folder / "spool")
        self.facts: BaseFacts = python_facts(packages, release)
        self.system: Layer = make_layer([rootfs_entry(row) for row in rows], title="ADD rootfs.tar /")

    def image(self, requirements: Sequence[str], note: str = "") -> Image:
        """An image in which `requirements` are installed, closure and all; each a layer of its own."""
        layers = [self.system]
        for requirement in requirements:
            wheels = resolve_image([requirement], self.facts)
            paths = fetch_wheels(wheels, self.store, facts=self.facts)
            files = {}
            for wheel in wheels:
                path = paths[wheel.sha256]
                files.update({file.path: wheel_entry(file, path) for file in read_wheel(path, self.facts)})
            layers.append(make_layer(list(files.values()), title=f"RUN pip install {requirement}"))
        layers.append(make_layer([Entry("etc/vendor", content=InlineContent(note.encode()))], title="COPY vendor /etc"))
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "VENDOR": "example"}
        config = ImageConfig("amd64", env=env, entrypoint=("/opt/vendor.sh",), user="root", volumes=("/data",))
        return make_image(config, layers)


def rootfs_entry(row: RootEntry) -> Entry:
    content: Content | None = None
    if row.kind == "file":
        source = row.content
        content = (
            InlineContent(source) if isinstance(source, bytes) else FileContent(source.path, source.size, source.offset)
        )
    return Entry(row.path, row.kind, row.mode, content, row.target, row.uid, row.gid)


def wheel_entry(file: InstalledFile, wheel: Path) -> Entry:
    source = file.source
    content: Content
    if not isinstance(source, ZipMember):
        content = InlineContent(source)
    elif source.method == "stored":
        content = FileContent(wheel, source.size, source.offset)
    else:
        content = DeflatedContent(wheel, source.offset, source.compressed, source.size, source.crc32)
    return Entry(file.path, mode=file.mode, content=content)


@dataclass(frozen=True)
class Site:
    """What a user of the vendor has: its image, the registry it lies in, a folder with specs, a store."""

    image: Image
    registry: str
    cwd: Path
    cache: Path

    @property
    def theirs(self) -> set[str]:
        return {layer.digest for layer in self.image.layers}

    def spec(
        self, name: str, *, base: str = "", engine: str = "echo", server: str = "standalone", more: str = ""
    ) -> Path:
        """A spec's folder; its base is the vendor's unless it is given."""
        folder = self.cwd / name
        folder.mkdir(exist_ok=True)
        base = base or f"{self.registry}/vendor/base:1.0"
        (folder / "packager.yaml").write_text(
            f"name: {name}\nengine: {{kind: {engine}}}\nserving: {{server: {server}}}\n"
            f"image: {{base: {{kind: registry, image: '{base}'}}}}\n{more}"
        )
        return folder

    def run(self, *argv: str | Path, **options: Any) -> str:
        done = packager(*argv, cwd=self.cwd, cache=self.cache, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self, spec: Path, *more: str | Path, **options: Any) -> dict[str, Any]:
        return build(spec, *more, "--output", spec / "dist", cwd=self.cwd, **{"cache": self.cache, **options})


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Vendor:
    return Vendor(tmp_path_factory.mktemp("vendor"), shared_cache)


@pytest.fixture(scope="module")
def site(vendor: Vendor, registry: str, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Site:
    image = vendor.image([*SERVER, ENGINE], note=registry)  # no Docker Engine has seen its last layer yet
    push_image(image, Reference(registry, "vendor/base", "1.0"))
    return Site(image, registry, tmp_path_factory.mktemp("site"), shared_cache)


@pytest.fixture(scope="module")
def spec(site: Site) -> Path:
    """A spec on the vendor's base, locked."""
    folder = site.spec("on-vendor")
    site.run("lock", folder)
    return folder


@pytest.fixture(scope="module")
def built(site: Site, spec: Path) -> dict[str, Any]:
    return site.build(spec)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of another real registry."""
    with running_registry(tmp_path_factory.mktemp("second")) as host:
        yield host


@contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        missing("no docker-registry on PATH (Debian package docker-registry; .ci/run installs it)")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        try:
            wait_for_port(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def lock_of(spec: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((spec / "packager.lock").read_text())
    return value


def blobs_in(layout: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir()}


def check_pulled(reference: str, digest: str) -> None:
    """Every byte of the image in the registry is what its digests say."""
    pulled = pull_image(parse_reference(reference))
    assert pulled.manifest_digest == digest
    for layer in pulled.layers:
        assert sum(map(len, layer.blob.open())) == layer.size  # and verified on the way


def test_the_lock_pins_the_digest_and_the_facts(site: Site, spec: Path, vendor: Vendor) -> None:
    lock = lock_of(spec)
    assert lock["base"] == {"kind": "registry", "digest": site.image.manifest_digest}
    facts = lock["facts"]
    assert facts["interpreter"] == "/usr/bin/python3.13"
    assert {key: facts[key] for key in ("python", "site", "scripts", "glibc")} == {
        key: getattr(vendor.facts, key) for key in ("python", "site", "scripts", "glibc")
    }
    assert {"orjson": "3.11.3", "uvicorn": "0.35.0"}.items() <= facts["installed"].items()
    assert facts["installed"]["xllamacpp"] == LLAMA_CPP.default_version


def test_what_the_base_has_gets_no_wheel(spec: Path) -> None:
    wheels = {wheel["name"]: wheel["file"] for wheel in lock_of(spec)["wheels"]}
    # click and h11 came with the vendor's uvicorn
    assert set(wheels) == {"blake3", "httptools", "prometheus-client", "uvloop"}
    assert "-cp313-cp313-" in wheels["uvloop"]


def test_the_layout_leaves_the_layers_of_the_base_out(site: Site, built: dict[str, Any], tmp_path: Path) -> None:
    """A build elsewhere, with the lock alone, fetches no layer of the base; nor does it write one."""
    layout = site.cwd / built["layout"]
    image = read_layout(layout)
    assert [layer.digest for layer in image.layers[: len(site.image.layers)]] == [
        layer.digest for layer in site.image.layers
    ]
    assert blobs_in(layout).isdisjoint(site.theirs)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(site.cwd / "on-vendor", elsewhere, ignore=shutil.ignore_patterns("dist"))
    again = site.build(elsewhere, "--locked", cache=tmp_path / "cache")
    assert again["manifest_digest"] == built["manifest_digest"]
    assert {f"sha256:{path.name}" for path in (tmp_path / "cache/sha256").glob("*/*")}.isdisjoint(site.theirs)
    shutil.rmtree(elsewhere / "dist")
    offline = site.build(elsewhere, "--offline", cache=tmp_path / "cache", env=nowhere(site))
    assert offline["manifest_digest"] == built["manifest_digest"]


def nowhere(site: Site) -> dict[str, str]:
    """An environment in which the vendor's registry is out of reach."""
    return {"PACKAGER_REGISTRY_MIRRORS": f"{site.registry}=127.0.0.1:9", "PATH": "/nonexistent"}


def test_inspect_and_verify_read_a_shallow_layout_without_a_network(
    site: Site, built: dict[str, Any], tmp_path: Path
) -> None:
    said = json.loads(site.run("inspect", built["layout"], "--json", env=nowhere(site)))
    assert said["image"]["base"] == {
        "name": f"{site.registry}/vendor/base:1.0",
        "digest": site.image.manifest_digest,
        "left_out": True,
    }
    assert "its layers are there, not in this layout" in site.run("inspect", built["layout"], env=nowhere(site))
    argv = ("verify", built["layout"], "--package", built["package"], "--offline")
    assert site.run(*argv, env=nowhere(site)).startswith("the same image, byte for byte")
    assert site.run(*argv, "--deep", env=nowhere(site)).startswith("the same image, byte for byte")


def test_pushing_beside_the_base_mounts_its_layers(site: Site, built: dict[str, Any]) -> None:
    name = f"{site.registry}/team/on-vendor:1"
    told = json.loads(site.run("push", built["layout"], "--to", name, "--json"))
    image = read_layout(site.cwd / built["layout"])
    ours = [layer for layer in image.layers if layer.digest not in site.theirs]
    assert told["mounted"] == len(site.image.layers)
    assert told["uploaded"] == len(ours) + 1
    assert told["uploaded_bytes"] == sum(layer.size for layer in ours) + len(image.config)
    check_pulled(name, built["manifest_digest"])
    assert site.run("verify", name, "--package", built["package"]).startswith("the same image, byte for byte")
    skopeo = shutil.which("skopeo") or missing("no skopeo on PATH")
    shown = subprocess.run(
        [skopeo, "inspect", "--tls-verify=false", f"docker://{name}"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["Digest"] == built["manifest_digest"]


def test_pushing_elsewhere_copies_them(site: Site, built: dict[str, Any], second: str, tmp_path: Path) -> None:
    """From one registry to the other: nothing of the base comes to lie on this machine."""
    name = f"{second}/team/on-vendor:1"
    done = packager("push", built["layout"], "--to", name, "--json", cwd=site.cwd, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    image = read_layout(site.cwd / built["layout"])
    assert (told["mounted"], told["uploaded"]) == (0, len(image.layers) + 1)
    assert told["uploaded_bytes"] == sum(layer.size for layer in image.layers) + len(image.config)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".gate"]  # of the lease on the store
    check_pulled(name, built["manifest_digest"])


def test_pushing_elsewhere_offline_says_what_is_missing(
    site: Site, built: dict[str, Any], second: str, tmp_path: Path
) -> None:
    argv = ("push", built["layout"], "--to", f"{second}/team/offline:1")
    done = packager(*argv, cwd=site.cwd, cache=tmp_path, env={"PACKAGER_OFFLINE": "1"})
    assert done.returncode == 1
    assert "offline, and a layer of this base image (" in done.stderr
    assert "mend: " in done.stderr


def test_a_full_layout_is_for_every_tool(site: Site, spec: Path, built: dict[str, Any], tmp_path: Path) -> None:
    full = build(spec, "--full", "--output", tmp_path, cwd=site.cwd, cache=site.cache)
    assert full["manifest_digest"] == built["manifest_digest"]
    assert site.theirs <= blobs_in(Path(full["layout"]))
    skopeo = shutil.which("skopeo") or missing("no skopeo on PATH")
    copy = [skopeo, "copy", "--quiet", f"oci:{full['layout']}", f"oci:{tmp_path / 'copy'}:1"]
    subprocess.run(copy, check=True)
    assert read_layout(tmp_path / "copy", verify=True).manifest_digest == built["manifest_digest"]
    told = json.loads(site.run("push", full["layout"], "--to", f"{site.registry}/team/full:1", "--json"))
    assert told["mounted"] == len(site.image.layers)


def test_a_mirror_shows_nowhere(site: Site, built: dict[str, Any], second: str) -> None:
    """The same spec, its base read from another registry: the same lock, package, image and layout."""
    push_image(site.image, Reference(second, "cache/vendor/base", "1.0"))
    spec = site.spec("on-vendor-mirrored")
    text = (spec / "packager.yaml").read_text().replace("on-vendor-mirrored", "on-vendor")
    (spec / "packager.yaml").write_text(text)
    env = {"PACKAGER_REGISTRY_MIRRORS": f"{site.registry}={second}/cache"}
    mirrored = site.build(spec, env=env)
    assert (spec / "packager.lock").read_bytes() == (site.cwd / "on-vendor/packager.lock").read_bytes()
    assert mirrored["manifest_digest"] == built["manifest_digest"]
    one, two = (site.cwd / one["layout"] / "index.json" for one in (built, mirrored))
    assert one.read_bytes() == two.read_bytes()


def test_a_vendor_that_only_a_mirror_reaches(site: Site, second: str) -> None:
    """Locked, built, mounted at the mirror and copied away from it, under the vendor's own name."""
    spec = site.spec("far", base="vendor.example.com/base:1.0")
    env = {"PACKAGER_REGISTRY_MIRRORS": f"vendor.example.com={site.registry}/vendor"}
    told = site.build(spec, env=env)
    pushed = json.loads(site.run("push", told["layout"], "--to", f"{site.registry}/team/far:1", "--json", env=env))
    assert pushed["mounted"] == len(site.image.layers)
    site.run("push", told["layout"], "--to", f"{second}/team/far:1", env=env)
    check_pulled(f"{second}/team/far:1", told["manifest_digest"])
    files = [path for path in (spec / "dist").rglob("*") if path.is_file()]
    files.append(spec / "packager.lock")
    assert [path for path in files if site.registry.encode() in path.read_bytes()] == []
    base = json.loads(site.run("inspect", told["layout"], "--json"))["image"]["base"]
    assert base["name"] == "vendor.example.com/base:1.0"


def test_a_tag_that_moved_does_not_move_the_build(site: Site, vendor: Vendor) -> None:
    tag = Reference(site.registry, "vendor/moving", "stable")
    before, after = vendor.image(SERVER, note="before"), vendor.image(SERVER, note="after")
    push_image(before, tag)
    spec = site.spec("moving", base=str(tag))
    site.run("lock", spec)
    push_image(after, tag)
    first = site.build(spec, "--locked")
    assert lock_of(spec)["base"]["digest"] == before.manifest_digest
    assert [layer.digest for layer in read_layout(site.cwd / first["layout"]).layers][: len(before.layers)] == [
        layer.digest for layer in before.layers
    ]
    told = json.loads(site.run("push", first["layout"], "--to", f"{site.registry}/team/moving:1", "--json"))
    assert told["mounted"] == len(before.layers)
    site.run("lock", spec)
    assert lock_of(spec)["base"]["digest"] == after.manifest_digest
    assert site.build(spec, "--locked")["manifest_digest"] != first["manifest_digest"]


def hello(site: Site) -> Path:
    weights = "weights: {source: file://hello.gguf, ship: in_image}\n"
    spec = site.spec("hello-on-vendor", engine="llama_cpp", server="bentoml", more=weights)
    shutil.copy(next((ROOT / "examples/hello").glob("*.gguf")), spec / "hello.gguf")
    return spec


def test_an_engine_in_the_base_gets_no_wheel(site: Site) -> None:
    spec = hello(site)
    site.run("lock", spec)
    lock = lock_of(spec)
    assert "xllamacpp" not in {wheel["name"] for wheel in lock["wheels"]}
    assert lock["facts"]["installed"]["xllamacpp"] == LLAMA_CPP.default_version
    plan = json.loads(site.run("build", spec, "--dry-run"))
    assert not [row for row in plan["image"]["wheels"] if "xllamacpp" in row["title"]]


def test_another_engine_in_the_base_than_the_spec_pins(site: Site) -> None:
    spec = site.spec(
        "pinned",
        engine="llama_cpp, version: 2026.9.11001",
        more="weights: {source: file://hello.gguf}\n",
    )
    shutil.copy(next((ROOT / "examples/hello").glob("*.gguf")), spec / "hello.gguf")
    done = packager("lock", spec, cwd=site.cwd, cache=site.cache)
    assert done.returncode == 1
    assert "xllamacpp" in done.stderr
    assert LLAMA_CPP.default_version in done.stderr
    assert "2026.9.11001" in done.stderr
    assert "mend: " in done.stderr


@pytest.mark.docker
def test_docker_is_sent_the_layers_it_lacks_from_the_registry(
    site: Site, spec: Path, built: dict[str, Any], docker_socket: str, tmp_path: Path
) -> None:
    """Offline and without them in the store there is a reason; once the engine has them nobody needs them."""
    docker = Docker(docker_socket)
    env = {"DOCKER_HOST": docker.env["DOCKER_HOST"]}
    again = ("build", spec, "--locked", "--docker", "--json", "--output", tmp_path / "dist")
    site.build(spec, "--locked", cache=tmp_path / "cache")
    done = packager(*again, "--offline", cwd=site.cwd, cache=tmp_path / "cache", env=env)
    assert done.returncode == 1
    assert "offline, and a layer of this base image (" in done.stderr
    try:
        done = packager(*again, cwd=site.cwd, cache=tmp_path / "cache", env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["docker"] == built["config_digest"]
        assert {f"sha256:{path.name}" for path in (tmp_path / "cache/sha256").glob("*/*")}.isdisjoint(site.theirs)
        if "containerd" not in docker("info", "--format", "{{.DriverStatus}}"):
            done = packager(*again, "--offline", cwd=site.cwd, cache=tmp_path / "cache", env=env)
            assert done.returncode == 0, done.stderr
    finally:
        docker("rmi", "--force", built["reference"])


@pytest.mark.docker
@pytest.mark.parametrize("model", ["on-vendor", "hello-on-vendor"])
def test_docker_runs_it_read_only_as_nobody_and_it_streams(
    site: Site, spec: Path, model: str, docker_socket: str
) -> None:
    docker = Docker(docker_socket)
    folder = spec if model == "on-vendor" else hello(site)
    env = {"DOCKER_HOST": docker.env["DOCKER_HOST"]}
    told = site.build(folder, "--docker", env=env)
    assert told["docker"] == told["config_digest"]
    port = free_port()
    container = docker(
        "run", "--detach", "--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777",
        "--tmpfs", "/var/cache/packager:uid=65532,gid=65532,mode=0755", told["reference"], "--port", str(port),
    )  # fmt: skip
    try:
        wait_until_ready(port, docker, container)
        text, done = stream(port, model)
        assert len(text) > 10
        assert done
        probe = "import os, sys; print(os.getuid(), *sys.version_info[:2])"
        assert docker("exec", container, "/usr/bin/python3", "-c", probe) == "65532 3 13"
    finally:
        docker("rm", "--force", container)
        docker("rmi", "--force", told["reference"])
