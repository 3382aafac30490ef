import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import ClassVar

import pytest
from jsonschema import Draft7Validator

from packager.errors import ImageError, IntegrityError
from packager.oci.blob import BytesBlob, RecipeBlob
from packager.oci.image import (
    CONFIG,
    MAX_LAYERS,
    Image,
    ImageConfig,
    image_config,
    image_index,
    make_image,
    select_manifest,
)
from packager.oci.layer import LAYER_GZIP, Layer, make_layer
from packager.oci.layout import NamedBase, archive_chunks, layout_base, read_layout, write_layout
from packager.oci.tar import Entry, InlineContent

REFERENCE = "registry.example.com/team/demo:1"


def layer(name: str, data: bytes = b"x") -> Layer:
    return make_layer([Entry(f"opt/{name}", content=InlineContent(data))], title=name)


def image(*names: str, base: Image | None = None, **config) -> Image:
    return make_image(ImageConfig("amd64", **config), [layer(name) for name in names], base=base)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestConfig:
    def test_is_pinned(self):
        built = image(
            "one",
            env={"Z": "1", "A": "2"},
            entrypoint=("serve",),
            cmd=("--port", "3000"),
            user="65532:65532",
            working_dir="/app",
            labels={"b": "2", "a": "1"},
            exposed_ports=("3000/tcp",),
            volumes=("/cache",),
        )
        config = json.loads(built.config)
        assert config == {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["A=2", "Z=1"],
                "Entrypoint": ["serve"],
                "Cmd": ["--port", "3000"],
                "User": "65532:65532",
                "WorkingDir": "/app",
                "Labels": {"a": "1", "b": "2"},
                "ExposedPorts": {"3000/tcp": {}},
                "Volumes": {"/cache": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [built.layers[0].diff_id]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "packager", "comment": "one"}],
        }
        assert built.manifest_digest == PINNED, "image bytes changed: raise the layer format, revert, or fix"

    def test_what_is_unset_is_absent(self):
        assert json.loads(image("one").config)["config"] == {"Env": []}

    def test_order_of_mappings_does_not_matter(self):
        one = image("x", env={"A": "1", "B": "2"}, labels={"c": "3", "d": "4"})
        other = image("x", env={"B": "2", "A": "1"}, labels={"d": "4", "c": "3"})
        assert (one.manifest, one.config) == (other.manifest, other.config)

    def test_on_a_base_its_history_stays_and_ours_wins(self):
        base = foreign_base()
        built = image("ours", base=base, env={"PATH": "/ours", "NEW": "1"}, labels={"a": "ours"})
        config = json.loads(built.config)
        assert config["rootfs"]["diff_ids"] == [base.layers[0].diff_id, built.layers[1].diff_id]
        assert config["history"][:2] == json.loads(base.config)["history"]
        assert config["config"] == {
            "Env": ["KEPT=a=b", "NEW=1", "PATH=/ours"],
            "Labels": {"a": "ours", "vendor": "theirs"},
        }
        assert config["variant"] == "v8"
        assert {row["mediaType"] for row in json.loads(built.manifest)["layers"]} == {LAYER_GZIP}

    def test_a_base_without_history_gets_one_row_a_layer(self):
        base = foreign_base(history=[])
        rows = json.loads(image("ours", base=base).config)["history"]
        assert [row.get("created_by") for row in rows] == ["base", "packager"]

    def test_a_base_of_another_platform_is_refused(self):
        with pytest.raises(ImageError, match="for linux/amd64, the image for linux/arm64"):
            image_config(ImageConfig("arm64"), [], base=foreign_base().config)

    @pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"os":"linux","architecture":"amd64","rootfs":{}}'])
    def test_a_base_that_is_no_image_is_refused(self, config):
        with pytest.raises(ImageError, match="its config is not one of an image"):
            image_config(ImageConfig("amd64"), [], base=config)

    def test_too_many_layers_are_refused(self):
        one = layer("x")
        make_image(ImageConfig("amd64"), [one] * MAX_LAYERS)
        with pytest.raises(ImageError, match="126 layers"):
            make_image(ImageConfig("amd64"), [one] * (MAX_LAYERS + 1))

    def test_manifest_follows_the_specification(self):
        built = image("one", "two")
        Draft7Validator(MANIFEST_SCHEMA).validate(json.loads(built.manifest))


PINNED = "sha256:8982ba20ed0b0970267bee04b940fd9c79c8c71acdd383616e764ce304d0c808"
DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {"digest": {"pattern": "^sha256:[0-9a-f]{64}$"}, "size": {"type": "integer", "minimum": 0}},
    "additionalProperties": {"type": "string"},
}
MANIFEST_SCHEMA = {
    "required": ["schemaVersion", "mediaType", "config", "layers"],
    "additionalProperties": False,
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "config": {**DESCRIPTOR, "properties": {**DESCRIPTOR["properties"], "mediaType": {"const": CONFIG}}},
        "layers": {"type": "array", "minItems": 1, "items": DESCRIPTOR},
    },
}


def foreign_base(**changes) -> Image:
    below = make_layer([Entry("etc/os-release")], title="theirs")
    docker = Layer(below.blob, below.diff_id, "application/vnd.docker.image.rootfs.diff.tar.gzip", "theirs")
    config = {
        "os": "linux",
        "architecture": "amd64",
        "variant": "v8",
        "created": "2026-02-03T04:05:06Z",
        "config": {
            "Env": ["PATH=/theirs", "KEPT=a=b"],
            "Labels": {"a": "theirs", "vendor": "theirs"},
            "Entrypoint": ["/vendor.sh"],
            "User": "root",
            "Volumes": {"/data": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [below.diff_id]},
        "history": [
            {"created": "2026-02-03T04:05:06Z", "created_by": "ADD rootfs"},
            {"created": "2026-02-03T04:05:06Z", "created_by": "ENV", "empty_layer": True},
        ],
        **changes,
    }
    return Image(b"{}", json.dumps(config).encode(), (docker,))


class TestSelect:
    ROW: ClassVar = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + "a" * 64,
        "size": 1,
    }

    def test_by_platform_and_never_an_attestation(self):
        rows = [
            {**self.ROW, "platform": {"os": "unknown", "architecture": "unknown"}},
            {**self.ROW, "platform": {"os": "linux", "architecture": "arm64"}},
            {**self.ROW, "digest": "sha256:" + "b" * 64, "platform": {"os": "linux", "architecture": "amd64"}},
        ]
        assert select_manifest({"manifests": rows}, "amd64", where="x").digest == "sha256:" + "b" * 64
        with pytest.raises(ImageError, match="no image for linux/s390x; it has linux/amd64, linux/arm64"):
            select_manifest({"manifests": rows}, "s390x", where="x")

    def test_of_nothing(self):
        with pytest.raises(ImageError, match="no image at all"):
            select_manifest({"manifests": []}, "amd64", where="x")

    @pytest.mark.parametrize("index", [{}, {"manifests": None}, {"manifests": [1]}, {"manifests": [{"digest": 1}]}])
    def test_of_what_is_no_index(self, index):
        with pytest.raises(ImageError, match="not an image that packager can read"):
            select_manifest(index, "amd64", where="x")

    def test_index_is_canonical(self):
        assert image_index([]).startswith(b'{"manifests":[],"mediaType":"application/vnd.oci.image.index')


class TestLayout:
    def test_round_trip(self, tmp_path):
        built = image("one", "two")
        write_layout(built, tmp_path / "x", reference=REFERENCE)
        for verify in (False, True):
            again = read_layout(tmp_path / "x", verify=verify)
            assert (again.manifest, again.config) == (built.manifest, built.config)
            assert [(at.digest, at.size, at.diff_id, at.title) for at in again.layers] == [
                (at.digest, at.size, at.diff_id, at.title) for at in built.layers
            ]
        assert b"".join(again.layers[0].blob.open()) == b"".join(built.layers[0].blob.open())

    def test_two_writes_give_the_same_files(self, tmp_path):
        for name in ("a", "b"):
            write_layout(image("one", "two"), tmp_path / name, reference=REFERENCE)
        assert files(tmp_path / "a") == files(tmp_path / "b")

    def test_both_indexes_point_at_the_same_image(self, tmp_path):
        built = image("one")
        write_layout(built, tmp_path, reference=REFERENCE)
        (row,) = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
        assert row["digest"] == built.manifest_digest
        assert row["annotations"] == {
            "io.containerd.image.name": REFERENCE,
            "org.opencontainers.image.ref.name": "1",
        }
        (docker,) = json.loads((tmp_path / "manifest.json").read_bytes())
        assert docker["RepoTags"] == [REFERENCE]
        for path in (docker["Config"], *docker["Layers"]):
            data = (tmp_path / path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == Path(path).name

    def test_without_a_reference(self, tmp_path):
        write_layout(image("one"), tmp_path)
        assert json.loads((tmp_path / "manifest.json").read_bytes())[0]["RepoTags"] is None
        assert "annotations" not in json.loads((tmp_path / "index.json").read_bytes())["manifests"][0]

    def test_reuses_blobs_by_hard_link(self, tmp_path):
        write_layout(image("one", "two"), tmp_path / "old")
        made = []

        def counted(name):
            plain = layer(name)
            make = plain.blob.make
            blob = RecipeBlob(plain.digest, plain.size, lambda: made.append(name) or make())
            return Layer(blob, plain.diff_id, plain.media_type, name)

        changed = make_image(ImageConfig("amd64"), [counted("one"), counted("three")])
        write_layout(changed, tmp_path / "new", reuse=tmp_path / "old")
        assert made == ["three"]
        name = changed.layers[0].digest[7:]
        old, new = (tmp_path / side / "blobs/sha256" / name for side in ("old", "new"))
        assert old.samefile(new)
        read_layout(tmp_path / "new", verify=True)

    def test_does_not_reuse_a_blob_of_another_size(self, tmp_path):
        built = image("one")
        write_layout(built, tmp_path / "old")
        stale = tmp_path / "old/blobs/sha256" / built.layers[0].digest[7:]
        stale.write_bytes(b"half")
        write_layout(built, tmp_path / "new", reuse=tmp_path / "old")
        read_layout(tmp_path / "new", verify=True)

    def test_reports_progress(self, tmp_path):
        seen = {}
        built = image("one", "one", "two")
        write_layout(built, tmp_path, progress=lambda title, done, total: seen.update({title: (done, total)}))
        assert set(seen) == {"one", "two", "config", "manifest"}
        assert all(done == total for done, total in seen.values())
        assert len(list((tmp_path / "blobs/sha256").iterdir())) == 4

    def test_a_blob_that_is_not_its_digest_leaves_no_index(self, tmp_path):
        good = layer("good")
        bad = Layer(
            RecipeBlob(good.digest, good.size, lambda: iter([bytes(good.size)])), good.diff_id, LAYER_GZIP, "bad"
        )
        with pytest.raises(IntegrityError):
            write_layout(make_image(ImageConfig("amd64"), [layer("other"), bad]), tmp_path)
        assert not (tmp_path / "index.json").exists()
        assert not [path for path in (tmp_path / "blobs/sha256").iterdir() if path.name.startswith(".")]
        assert not (tmp_path / "blobs/sha256" / good.digest[7:]).exists()

    def test_refuses_a_folder_that_holds_something(self, tmp_path):
        write_layout(image("one"), tmp_path)
        with pytest.raises(ImageError, match="empty folder"):
            write_layout(image("one"), tmp_path)

    def test_an_index_in_an_index_is_followed(self, tmp_path):
        built = image("one")
        write_layout(built, tmp_path)
        inner = (tmp_path / "index.json").read_bytes()
        digest = hashlib.sha256(inner).hexdigest()
        (tmp_path / "blobs/sha256" / digest).write_bytes(inner)
        row = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{digest}", "size": len(inner)}
        (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))
        assert read_layout(tmp_path).manifest == built.manifest


VENDOR = "vendor.example.com/base:1"


class TestShallow:
    """A layout that leaves the layers of its base in a registry."""

    @pytest.fixture
    def base(self) -> Image:
        def unread():
            raise AssertionError("a layer of the base was read")

        whole = layer("theirs")
        blob = RecipeBlob(whole.digest, whole.size, unread)
        return make_image(ImageConfig("amd64"), [Layer(blob, whole.diff_id, whole.media_type, "theirs")])

    @pytest.fixture
    def built(self, base) -> Image:
        return image("one", "two", base=base)

    @pytest.fixture
    def folder(self, tmp_path, base, built) -> Path:
        named = NamedBase(VENDOR, base.manifest, shallow=True)
        write_layout(built, tmp_path / "x", reference=REFERENCE, base=named)
        return tmp_path / "x"

    def test_has_everything_but_the_layers_of_the_base(self, folder, base, built):
        there = {f"sha256:{path.name}" for path in (folder / "blobs/sha256").iterdir()}
        ours = {layer.digest for layer in built.layers} - {layer.digest for layer in base.layers}
        assert there == {built.manifest_digest, built.config_digest, base.manifest_digest, *ours}

    def test_says_in_its_index_alone_where_they_are(self, folder, base, built):
        (row,) = json.loads((folder / "index.json").read_bytes())["manifests"]
        assert row["digest"] == built.manifest_digest
        assert row["annotations"] == {
            "io.containerd.image.name": REFERENCE,
            "org.opencontainers.image.base.digest": base.manifest_digest,
            "org.opencontainers.image.base.name": VENDOR,
            "org.opencontainers.image.ref.name": "1",
        }
        assert layout_base(folder) == NamedBase(VENDOR, base.manifest, shallow=True)

    def test_is_read_without_them(self, folder, built):
        for verify in (False, True):
            found = read_layout(folder, verify=verify)
            assert (found.manifest, found.config) == (built.manifest, built.config)
            assert [(at.digest, at.size, at.diff_id, at.title) for at in found.layers] == [
                (at.digest, at.size, at.diff_id, at.title) for at in built.layers
            ]
        assert b"".join(found.layers[1].blob.open()) == b"".join(built.layers[1].blob.open())
        with pytest.raises(ImageError, match="leaves the layers of its base in the registry") as caught:
            found.layers[0].blob.open()
        assert "--full" in caught.value.problems[0].mend
        assert caught.value.problems[0].where == VENDOR

    def test_what_is_left_out_comes_from_where_the_caller_says(self, folder, base):
        asked = []

        def remote(named, row):
            asked.append((named.name, named.digest, row.digest))
            return BytesBlob(b"".join(layer("theirs").blob.open()))

        found = read_layout(folder, remote=remote)
        assert asked == [(VENDOR, base.manifest_digest, base.layers[0].digest)]
        assert b"".join(found.layers[0].blob.open()) == b"".join(layer("theirs").blob.open())
        assert len(b"".join(archive_chunks(found, REFERENCE))) > found.layers[0].size

    def test_our_own_layers_must_be_there(self, folder, built):
        (folder / "blobs/sha256" / built.layers[1].digest[7:]).unlink()
        with pytest.raises(ImageError, match="missing"):
            read_layout(folder)

    def test_a_full_one_names_its_base_too(self, tmp_path, base):
        built = image("one", base=image("theirs"))
        write_layout(built, tmp_path, base=NamedBase(VENDOR, base.manifest, shallow=False))
        assert layout_base(tmp_path) == NamedBase(VENDOR, base.manifest, shallow=False)
        found = read_layout(tmp_path, verify=True)
        assert b"".join(found.layers[0].blob.open()) == b"".join(layer("theirs").blob.open())

    def test_foreign_annotations_alone_mean_nothing(self, folder, base, built):
        """Other tools write the same annotations into whole layouts, without the base's manifest."""
        (folder / "blobs/sha256" / base.manifest_digest[7:]).unlink()
        assert layout_base(folder) is None
        with pytest.raises(ImageError, match="missing"):
            read_layout(folder)

    def test_a_changed_base_manifest_is_found(self, folder, base):
        path = folder / "blobs/sha256" / base.manifest_digest[7:]
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(ImageError, match="not those of its name"):
            read_layout(folder)

    @pytest.mark.parametrize("index", [b"", b"{}", b'{"manifests":[]}', b'{"manifests":[{"annotations":null}]}'])
    def test_no_base(self, tmp_path, index):
        (tmp_path / "index.json").write_bytes(index)
        assert layout_base(tmp_path) is None


class TestBrokenLayout:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        write_layout(image("one"), tmp_path / "x")
        return tmp_path / "x"

    def blob(self, folder: Path, digest: str) -> Path:
        return folder / "blobs/sha256" / digest[7:]

    def test_no_folder(self, tmp_path):
        with pytest.raises(ImageError, match=r"has no index\.json") as caught:
            read_layout(tmp_path / "none")
        assert caught.value.problems[0].mend

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifests":[{}]}', '{"manifests":[{"mediaType":1}]}'])
    def test_bad_index(self, folder, text):
        (folder / "index.json").write_text(text)
        with pytest.raises(ImageError):
            read_layout(folder)

    def test_a_digest_that_climbs_out(self, folder):
        row = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": "sha256:../../index.json",
            "size": 9,
        }
        (folder / "index.json").write_text(json.dumps({"manifests": [row]}))
        with pytest.raises(ImageError, match="is no sha256 digest"):
            read_layout(folder)

    def test_missing_cut_and_changed_blobs(self, folder):
        layer_path = self.blob(folder, read_layout(folder).layers[0].digest)
        data = layer_path.read_bytes()
        layer_path.write_bytes(bytes(len(data)))
        read_layout(folder)
        with pytest.raises(ImageError, match="not those of its name"):
            read_layout(folder, verify=True)
        layer_path.write_bytes(data[:-1])
        with pytest.raises(ImageError, match="bytes, not"):
            read_layout(folder)
        layer_path.unlink()
        with pytest.raises(ImageError, match="missing"):
            read_layout(folder)

    def test_a_changed_config_is_always_found(self, folder):
        config = self.blob(folder, read_layout(folder).config_digest)
        config.write_bytes(config.read_bytes().replace(b"linux", b"linuz"))
        with pytest.raises(ImageError, match="not those of its name"):
            read_layout(folder)


class TestArchive:
    def read(self, data: bytes) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return {at.name: tar.extractfile(at).read() for at in tar if at.isreg()}

    def test_holds_the_layout_with_dockers_manifest_first(self, tmp_path):
        built = image("one", "two", "one")
        write_layout(built, tmp_path, reference=REFERENCE)
        found = self.read(b"".join(archive_chunks(built, REFERENCE)))
        assert found == files(tmp_path)
        assert next(iter(found)) == "manifest.json"

    def test_is_deterministic(self):
        assert b"".join(archive_chunks(image("a"), REFERENCE)) == b"".join(archive_chunks(image("a"), REFERENCE))

    def test_leaves_out_what_the_engine_has(self):
        built = image("one", "two")
        full, part = (self.read(b"".join(archive_chunks(built, skip=skip))) for skip in ((), {built.layers[0].digest}))
        assert set(full) - set(part) == {f"blobs/sha256/{built.layers[0].digest[7:]}"}
        assert full["manifest.json"] == part["manifest.json"]
