"""Small images to stand on: a Python that only looks like one, with what `read_base_facts` looks for."""

from collections.abc import Mapping

from packager.oci.content import InlineContent
from packager.oci.image import Image, ImageConfig, make_image
from packager.oci.layer import make_layer
from packager.oci.tar import Entry


def make_base(python: str = "3.12.4", glibc: str = "2.39", installed: Mapping[str, str] | None = None) -> Image:
    """An amd64 image with a CPython below /usr/local, a glibc, and distributions already installed."""
    minor = ".".join(python.split(".")[:2])
    site = f"usr/local/lib/python{minor}/site-packages"
    files = {
        f"usr/local/bin/python{minor}": b"\x7fELF stand-in for a program, version " + python.encode() + b"\0",
        "usr/lib/x86_64-linux-gnu/libc.so.6": f"GNU C Library (stand-in) stable release version {glibc}.\n".encode(),
        f"usr/local/lib/python{minor}/os.py": b"# the standard library's landmark\n",
        f"{site}/README.txt": b"site-packages\n",
    }
    for name, version in (installed or {}).items():
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files[f"{site}/{name.replace('-', '_')}-{version}.dist-info/METADATA"] = metadata.encode()
    entries = [
        Entry(path, mode=0o755 if "/bin/" in path else 0o644, content=InlineContent(data))
        for path, data in files.items()
    ]
    entries += [
        Entry("usr/local/bin/python3", "symlink", 0o777, target=f"python{minor}"),
        Entry("lib", "symlink", 0o777, target="usr/lib"),
    ]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON_VERSION": python}
    config = ImageConfig("amd64", env=env, entrypoint=("/vendor/entrypoint.sh",), labels={"vendor": "example"})
    return make_image(config, [make_layer(entries, title="vendor base")])
