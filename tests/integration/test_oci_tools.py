"""Real tools read what we write: skopeo, podman, a Docker Engine, a registry."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from fakes.machine import missing

from packager.oci.image import Image, ImageConfig, make_image
from packager.oci.layer import make_layer
from packager.oci.layout import archive_chunks, read_layout, write_layout
from packager.oci.reference import Reference
from packager.oci.registry import Registry, RemoteBlob, pull_image, push_image
from packager.oci.session import Access
from packager.oci.tar import Entry, InlineContent

ANONYMOUS = Access(credentials=lambda _: None)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"no {name} on PATH")
    return found


def run(*words: str, **more) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def small_image(*titles: str, env: dict[str, str] | None = None) -> Image:
    """Fresh bytes each time: an engine that has a layer already would not read ours."""
    layers = [
        make_layer(
            [
                Entry(f"opt/{title}/data", content=InlineContent(secrets.token_bytes(200_000))),
                Entry(f"opt/{title}/" + "long-" * 30 + "ünïcode", mode=0o755, content=InlineContent(b"x")),
                Entry(f"opt/{title}/link", "symlink", target="data"),
                Entry(f"opt/{title}/open", "directory", 0o1777, uid=65532, gid=65532),
            ],
            title=title,
        )
        for title in titles
    ]
    return make_image(ImageConfig("amd64", env=env or {"A": "1"}, user="65532", entrypoint=("/bin/x",)), layers)


@pytest.mark.registry
class TestSkopeo:
    def test_inspects_and_copies_the_layout_unchanged(self, tmp_path):
        skopeo = tool("skopeo")
        image = small_image("one", "two")
        write_layout(image, tmp_path / "a", reference="localhost/demo:1")
        shown = json.loads(run(skopeo, "inspect", f"oci:{tmp_path}/a:1"))
        assert shown["Digest"] == image.manifest_digest
        assert shown["Layers"] == [layer.digest for layer in image.layers]
        run(skopeo, "copy", f"oci:{tmp_path}/a:1", f"oci:{tmp_path}/b:1")
        assert read_layout(tmp_path / "b", verify=True).manifest == image.manifest

    def test_copies_the_archive(self, tmp_path):
        image = small_image("one")
        with (tmp_path / "image.tar").open("wb") as file:
            file.writelines(archive_chunks(image, "localhost/demo:1"))
        run(tool("skopeo"), "copy", f"docker-archive:{tmp_path}/image.tar", f"dir:{tmp_path}/out")
        assert json.loads((tmp_path / "out/manifest.json").read_bytes())["config"]["digest"] == image.config_digest


@pytest.mark.registry
class TestRegistry:
    def test_push_and_pull_keep_every_byte(self, registry, tmp_path):
        image = small_image("one", "two")
        to = Reference(registry, "team/demo", "1")
        report = push_image(image, to, access=ANONYMOUS)
        assert report.manifest_digest == image.manifest_digest
        assert (report.uploaded, report.mounted, report.skipped) == (3, 0, 0)
        assert report.uploaded_bytes == len(image.config) + sum(layer.size for layer in image.layers)
        for reference in (to, to.with_digest(image.manifest_digest)):
            pulled = pull_image(reference, access=ANONYMOUS)
            assert (pulled.manifest, pulled.config) == (image.manifest, image.config)
        write_layout(pulled, tmp_path / "x")
        assert [layer.diff_id for layer in read_layout(tmp_path / "x", verify=True).layers] == [
            layer.diff_id for layer in image.layers
        ]
        again = push_image(image, to.with_tag("2"), access=ANONYMOUS)
        assert (again.uploaded_bytes, again.skipped) == (0, 3)

    def test_mounts_what_a_neighbour_has(self, registry):
        image = small_image("one", "two")
        push_image(image, Reference(registry, "team/first", "1"), access=ANONYMOUS)
        pulled = pull_image(Reference(registry, "team/first", "1"), access=ANONYMOUS)
        report = push_image(pulled, Reference(registry, "team/second", "1"), access=ANONYMOUS)
        assert (report.mounted, report.uploaded) == (2, 1)
        mounts = {layer.digest: "team/first" for layer in image.layers}
        report = push_image(image, Reference(registry, "team/third", "1"), mounts=mounts, access=ANONYMOUS)
        assert (report.mounted, report.uploaded) == (2, 1)

    def test_uploads_in_chunks(self, registry):
        image = small_image("one")
        access = Access(credentials=lambda _: None, monolithic=1000, chunk=50_000)
        to = Reference(registry, "team/chunks", "1")
        assert push_image(image, to, access=access).uploaded == 2
        (layer,) = pull_image(to, access=ANONYMOUS).layers
        assert isinstance(layer.blob, RemoteBlob)
        assert sum(map(len, layer.blob.open())) == layer.size

    def test_our_layers_on_a_base_that_is_pulled(self, registry):
        base_at = Reference(registry, "vendor/base", "1")
        push_image(small_image("base", env={"PATH": "/bin"}), base_at, access=ANONYMOUS)
        ours = make_layer([Entry("app/x", content=InlineContent(secrets.token_bytes(10)))], title="ours")
        image = make_image(ImageConfig("amd64"), [ours], base=pull_image(base_at, access=ANONYMOUS))
        report = push_image(image, Reference(registry, "team/on-base", "1"), access=ANONYMOUS)
        assert (report.mounted, report.uploaded) == (1, 2)
        shown = json.loads(run(tool("skopeo"), "inspect", "--tls-verify=false", f"docker://{registry}/team/on-base:1"))
        assert shown["Layers"] == [layer.digest for layer in image.layers]
        assert shown["Env"] == ["PATH=/bin"]

    def test_a_missing_manifest_is_none(self, registry):
        with Registry(Reference(registry, "team/none"), access=ANONYMOUS) as remote:
            assert remote.find_manifest("1") is None
            assert not remote.has_blob("sha256:" + "0" * 64)


@pytest.mark.docker
class TestPodman:
    def test_loads_the_archive(self, tmp_path, request):
        podman = tool("podman")
        if os.geteuid() != 0:
            missing("podman's own storage is tried as root only")
        short = tempfile.mkdtemp(prefix="p")  # podman takes no runroot longer than 50 characters
        request.addfinalizer(lambda: shutil.rmtree(short))
        base = [podman, "--root", f"{tmp_path}/root", "--runroot", short, "--storage-driver", "vfs"]
        image = small_image("one", "two")
        with (tmp_path / "image.tar").open("wb") as file:
            file.writelines(archive_chunks(image, "localhost/demo:1"))
        run(*base, "load", "-i", f"{tmp_path}/image.tar")
        (shown,) = json.loads(run(*base, "image", "inspect", "localhost/demo:1"))
        assert f"sha256:{shown['Id']}" == image.config_digest
        assert shown["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]


@pytest.mark.docker
class TestDocker:
    @pytest.fixture
    def engine(self, docker_socket) -> Iterator[docker.DockerClient]:
        client = docker.DockerClient(base_url=f"unix://{docker_socket}")
        yield client
        client.close()

    def load(self, engine: docker.DockerClient, image: Image, name: str, skip: frozenset[str] = frozenset()) -> dict:
        engine.images.load(archive_chunks(image, name, skip=skip))
        return engine.api.inspect_image(name)

    def test_loads_the_archive_stream(self, engine):
        image = small_image("one", "two")
        name = f"packager.test/oci:{secrets.token_hex(4)}"
        try:
            shown = self.load(engine, image, name)
            assert shown["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]
            assert shown["Id"] in (image.config_digest, image.manifest_digest)  # classic store, containerd store
            assert shown["Config"]["User"] == "65532"
        finally:
            engine.api.remove_image(name)

    def test_takes_an_archive_without_the_layers_it_has(self, engine):
        if "io.containerd.snapshotter.v1" in str(engine.info().get("DriverStatus")):
            missing("this Engine has the containerd store, where layers are not left out")
        first = small_image("one", "two")
        layer = make_layer([Entry("app", content=InlineContent(secrets.token_bytes(9)))], title="app")
        second = make_image(ImageConfig("amd64"), [*first.layers, layer])
        names = [f"packager.test/oci:{secrets.token_hex(4)}" for _ in range(2)]
        try:
            self.load(engine, first, names[0])
            shown = self.load(engine, second, names[1], frozenset(layer.digest for layer in first.layers))
            assert shown["RootFS"]["Layers"] == [layer.diff_id for layer in second.layers]
        finally:
            for name in reversed(names):
                engine.api.remove_image(name)

    def test_does_not_take_it_without_layers_that_it_lacks(self, engine):
        image = small_image("one", "two")
        name = f"packager.test/oci:{secrets.token_hex(4)}"
        with pytest.raises(docker.errors.DockerException, match=r"no such file|not found"):
            self.load(engine, image, name, frozenset({image.layers[1].digest}))


def test_the_layout_folder_as_a_tar_is_an_archive(tmp_path: Path):
    """What `tar -C NAME.oci -c . | docker load` would send holds all that our own stream holds."""
    image = small_image("one")
    write_layout(image, tmp_path / "x", reference="localhost/demo:1")
    (tmp_path / "ours.tar").write_bytes(b"".join(archive_chunks(image, "localhost/demo:1")))
    ours = run("tar", "-tf", f"{tmp_path}/ours.tar").split()
    run(
        "tar",
        "-C",
        f"{tmp_path}/x",
        "-cf",
        f"{tmp_path}/theirs.tar",
        "blobs",
        "index.json",
        "manifest.json",
        "oci-layout",
    )
    assert sorted(ours) == sorted(run("tar", "-tf", f"{tmp_path}/theirs.tar").split())
