import gzip
import io
import json
import tarfile

import pytest

from packager.errors import ImageError
from packager.oci.blob import BytesBlob
from packager.oci.filetree import FileTree
from packager.oci.image import CONFIG, LAYER_TAR, LAYER_ZSTD, Descriptor, Image, image_manifest
from packager.oci.inspect import read_base, read_base_facts
from packager.oci.layer import LAYER_GZIP, Layer

PYTHON = b"\x7fELF....\x003.2.0\x00Python %s\x003.11.2\x00rest"
LIBC = b"\x7fELF..GNU C Library (Debian GLIBC 2.36-9+deb12u8) stable release version 2.36.\nCopyright\0"


def tar(*members: tuple, compress: bool = True) -> Layer:
    """A layer of (path, bytes) files, (path, `-> target`) symlinks, (path, `=> path`) hard links, (path, None) folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, what in members:
            info = tarfile.TarInfo(path)
            info.mode = 0o755
            if what is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(what, str):
                info.type = tarfile.SYMTYPE if what.startswith("->") else tarfile.LNKTYPE
                info.linkname = what[3:]
            else:
                info.size = len(what)
            archive.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    data = buffer.getvalue()
    return Layer(
        BytesBlob(gzip.compress(data) if compress else data), "sha256:x", LAYER_GZIP if compress else LAYER_TAR, "t"
    )


def image(*layers: Layer, env: tuple[str, ...] = ("PATH=/usr/local/bin:/usr/bin:/bin",), **more) -> Image:
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": list(env)}, **more}).encode()
    return Image(image_manifest(Descriptor(CONFIG, BytesBlob(config).digest, len(config)), layers), config, layers)


def metadata(name: str, version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 0 in the text\n".encode()


DEBIAN = (
    ("bin", "-> usr/bin"),
    ("lib", "-> usr/lib"),
    ("usr/bin/python3", "-> python3.11"),
    ("usr/bin/python3.11", PYTHON),
    ("usr/lib/python3.11/os.py", b""),
    ("lib/x86_64-linux-gnu/libc.so.6", LIBC),
    (
        "var/lib/dpkg/status",
        b"Package: python3.11-minimal\nVersion: 3.11.9-6+deb12u6\n\nPackage: zlib1g\nVersion: 1:1.2\n",
    ),
    ("usr/lib/python3/dist-packages/PyYAML-6.0.egg-info/PKG-INFO", metadata("PyYAML", "6.0")),
    ("usr/lib/python3/dist-packages/six-1.16.0.egg-info", metadata("six", "1.16.0")),
)


class TestDebian:
    def test_facts(self):
        reading = read_base(image(tar(*DEBIAN)))
        facts = reading.facts
        assert facts.architecture == "amd64"
        assert facts.interpreter == "/usr/bin/python3.11"
        assert (facts.python, reading.python_source) == ("3.11.2", "binary")
        assert facts.site == "/usr/local/lib/python3.11/dist-packages"
        assert facts.scripts == "/usr/local/bin"
        assert facts.glibc == "2.36"
        assert facts.installed == {"pyyaml": "6.0", "six": "1.16.0"}

    def test_a_plain_tar_layer_reads_the_same(self):
        assert read_base_facts(image(tar(*DEBIAN, compress=False))) == read_base_facts(image(tar(*DEBIAN)))

    def test_what_stands_earlier_on_the_path_of_imports_wins(self):
        site = "usr/local/lib/python3.11/dist-packages"
        above = tar((f"{site}/pyyaml-7.dist-info/METADATA", metadata("pyyaml", "7")))
        assert read_base_facts(image(tar(*DEBIAN), above)).installed == {"pyyaml": "7", "six": "1.16.0"}

    def test_whiteouts_take_distributions_away(self):
        gone = tar(("usr/lib/python3/dist-packages/.wh.six-1.16.0.egg-info", b""))
        assert read_base_facts(image(tar(*DEBIAN), gone)).installed == {"pyyaml": "6.0"}
        opaque = tar(("usr/lib/python3/dist-packages/.wh..wh..opq", b""))
        assert read_base_facts(image(tar(*DEBIAN), opaque)).installed == {}

    def test_pythonpath_counts(self):
        extra = tar(("opt/x/zed.dist-info/METADATA", metadata("Zed", "1")))
        found = read_base_facts(image(tar(*DEBIAN), extra, env=("PYTHONPATH=/opt/x",))).installed
        assert found["zed"] == "1"


class TestVersion:
    def members(self, **changes: bytes) -> list[tuple]:
        return [(path, changes.get(path.rpartition("/")[2], what)) for path, what in DEBIAN]

    def test_dpkg_when_the_program_does_not_say(self):
        reading = read_base(image(tar(*self.members(**{"python3.11": b"\x7fELF"}))))
        assert (reading.facts.python, reading.python_source) == ("3.11.9", "dpkg")

    def test_the_environment_when_dpkg_does_not_say(self):
        members = self.members(**{"python3.11": b"\x7fELF", "status": b""})
        reading = read_base(image(tar(*members), env=("PYTHON_VERSION=3.11.7",)))
        assert (reading.facts.python, reading.python_source) == ("3.11.7", "environment")

    def test_the_library_when_the_program_is_small(self):
        members = self.members(**{"python3.11": b"\x7fELF"})
        library = tar(("usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", PYTHON))
        reading = read_base(image(tar(*members), library))
        assert (reading.facts.python, reading.python_source) == ("3.11.2", "binary")

    def test_nothing_says(self):
        with pytest.raises(ImageError, match="exact version") as caught:
            read_base(
                image(tar(*self.members(**{"python3.11": b"\x7fELF", "status": b""})), env=("PYTHON_VERSION=3.12.1",))
            )
        assert "PYTHON_VERSION" in caught.value.problems[0].mend


class TestOtherPythons:
    LIBC = ("lib/x86_64-linux-gnu/libc.so.6", LIBC)

    def test_the_official_images_prefix(self):
        base = tar(
            self.LIBC,
            ("usr/local/bin/python3.12", PYTHON.replace(b"3.11.2", b"3.12.11")),
            ("usr/local/bin/python3", "-> python3.12"),
            ("usr/local/lib/python3.12/site-packages/pip-25.dist-info/METADATA", metadata("pip", "25")),
            ("var/lib/dpkg/status", b""),
        )
        facts = read_base_facts(image(base))
        assert facts.python == "3.12.11"
        assert facts.site == "/usr/local/lib/python3.12/site-packages"
        assert facts.scripts == "/usr/local/bin"
        assert facts.installed == {"pip": "25"}

    def test_a_virtual_environment(self):
        venv = tar(
            ("opt/venv/bin/python", "-> /usr/bin/python3"),
            ("opt/venv/bin/python3", "-> python"),
            ("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n"),
            ("opt/venv/lib/python3.11/site-packages/torch-2.dist-info/METADATA", metadata("torch", "2")),
        )
        facts = read_base_facts(image(tar(*DEBIAN), venv, env=("PATH=/opt/venv/bin:/usr/bin",)))
        assert facts.interpreter == "/opt/venv/bin/python3"
        assert facts.site == "/opt/venv/lib/python3.11/site-packages"
        assert facts.scripts == "/opt/venv/bin"
        assert facts.installed == {"torch": "2"}

    def test_a_virtual_environment_that_shares(self):
        venv = tar(
            ("opt/venv/bin/python3", "-> /usr/bin/python3"),
            ("opt/venv/pyvenv.cfg", b"include-system-site-packages = true\n"),
        )
        assert "six" in read_base_facts(image(tar(*DEBIAN), venv, env=("PATH=/opt/venv/bin",))).installed

    def test_a_shim_is_passed_over(self):
        shim = tar(("opt/shims/python3", b"#!/bin/sh\n"))
        facts = read_base_facts(image(tar(*DEBIAN), shim, env=("PATH=/opt/shims:/usr/bin",)))
        assert facts.interpreter == "/usr/bin/python3.11"

    def test_a_program_without_a_number_in_its_name(self):
        base = tar(self.LIBC, ("opt/py/bin/python3", PYTHON), ("opt/py/lib/python3.11/os.py", b""))
        facts = read_base_facts(image(base, env=("PATH=/opt/py/bin",)))
        assert (facts.interpreter, facts.site) == ("/opt/py/bin/python3", "/opt/py/lib/python3.11/site-packages")

    def test_a_hard_link(self):
        base = tar(self.LIBC, ("usr/local/bin/python3.11", PYTHON), ("usr/local/bin/python3", "=> usr/local/bin/python3.11"),
                   ("usr/local/lib/python3.11/os.py", b""))  # fmt: skip
        assert read_base_facts(image(base)).interpreter == "/usr/local/bin/python3"


class TestRefusals:
    def test_no_python(self):
        with pytest.raises(ImageError, match="no Python 3 in its PATH") as caught:
            read_base_facts(image(tar(("lib/x86_64-linux-gnu/libc.so.6", LIBC))))
        assert caught.value.problems[0].mend

    def test_musl(self):
        with pytest.raises(ImageError, match="musl"):
            read_base_facts(
                image(tar(("lib/ld-musl-x86_64.so.1", b"\x7fELF"), *[at for at in DEBIAN if at[0] != "lib"][:3]))
            )

    def test_no_libc_at_all(self):
        with pytest.raises(ImageError, match="no glibc"):
            read_base_facts(image(tar(("usr/bin/python3.11", PYTHON))))

    @pytest.mark.parametrize(
        "layer",
        [
            Layer(BytesBlob(b"\x28\xb5\x2f\xfd...."), "sha256:x", LAYER_GZIP, "t"),
            Layer(BytesBlob(b"...."), "sha256:x", LAYER_ZSTD, "t"),
        ],
    )
    def test_zstd(self, layer):
        with pytest.raises(ImageError, match="zstd"):
            read_base_facts(image(layer))

    @pytest.mark.parametrize(
        "data", [b"no tar at all" * 100, gzip.compress(b"x" * 1024), gzip.compress(b"y")[:-4], b"\x1f\x8bxx"]
    )
    def test_what_is_no_tar(self, data):
        with pytest.raises(ImageError, match="not a tar archive"):
            read_base_facts(image(Layer(BytesBlob(data), "sha256:x", LAYER_GZIP, "t")))

    @pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"architecture":"amd64","config":{"Env":1}}'])
    def test_a_config_that_is_none(self, config):
        with pytest.raises(ImageError, match="config is not one of an image"):
            read_base_facts(Image(b"{}", config, ()))

    def test_a_path_that_leaves_the_image(self):
        with pytest.raises(ImageError, match="leaves the image"):
            read_base_facts(image(tar(("usr/../../etc/passwd", b"x"))))


class TestTree:
    def tree(self, *layers: Layer) -> FileTree:
        tree = FileTree()
        for layer in layers:
            tree.apply(layer, lambda path, size, stream: stream.read(64))
        return tree

    def found(self, tree: FileTree) -> dict[str, bytes]:
        return {path: file.found for path, file in tree.walk()}

    def test_later_layers_replace_and_remove(self):
        tree = self.tree(
            tar(("a/x", b"1"), ("a/y", b"2"), ("b/z", b"3"), ("c", b"4")),
            tar(("a/x", b"5"), ("a/.wh.y", b""), (".wh.b", b""), ("c", None), ("c/d", b"6")),
        )
        assert self.found(tree) == {"/a/x": b"5", "/c/d": b"6"}

    def test_a_whiteout_hides_only_what_lies_below(self):
        below = tar(("d/old", b"1"), ("d/sub/old", b"1"))
        before = tar(("d/.wh..wh..opq", b""), ("d/new", b"2"), ("d/sub/new", b"2"))
        after = tar(("d/new", b"2"), ("d/sub", None), ("d/sub/new", b"2"), ("d/.wh..wh..opq", b""))
        want = {"/d/new": b"2", "/d/sub/new": b"2"}
        assert self.found(self.tree(below, before)) == self.found(self.tree(below, after)) == want

    def test_paths_go_through_symlinks_of_layers_below(self):
        tree = self.tree(tar(("lib", "-> usr/lib"), ("usr/lib/a", b"1")), tar(("lib/b", b"2"), ("lib/.wh.a", b"")))
        assert self.found(tree) == {"/usr/lib/b": b"2"}

    def test_links_resolve_within_the_image(self):
        tree = self.tree(
            tar(
                ("etc/real", b"1"),
                ("abs", "-> /etc/real"),
                ("up", "-> ../../../etc/real"),
                ("dir", "-> etc"),
                ("opt/up", "-> ../etc/./real"),
                ("loop", "-> loop"),
                ("dangling", "-> nothing"),
            )
        )
        for path in ("/abs", "up", "/dir/real", "/opt/up", "/opt/../dir/../abs", "//etc/./real"):
            assert tree.resolve(path)[0] == "/etc/real", path
        for path in ("/loop", "/dangling", "/etc/real/x", "/none", "/etc/real/.."):
            assert tree.resolve(path) is None, path
        assert tree.resolve("/")[0] == "/"
        assert tree.resolve("/abs", last=False)[0] == "/abs"

    def test_a_folder_in_place_of_a_file_or_dangling_link(self):
        tree = self.tree(tar(("a", b"1"), ("l", "-> nowhere")), tar(("a/b", b"2"), ("l/c", b"3")))
        assert self.found(tree) == {"/a/b": b"2", "/l/c": b"3"}
