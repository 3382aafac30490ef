"""What a base is like, read from its own bytes: the Python that runs in it, its folders, glibc, what is installed.

Each layer is streamed once. Nothing is extracted and nothing is run: while a layer passes, the few files that
say something (interpreters, libc, metadata of distributions) are looked into, and only what they say is kept.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import basename, dirname, join
from typing import IO, Any

from ..errors import ImageError
from ..facts import BaseFacts
from .filetree import File, FileTree, read_tree
from .image import Image

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_BINARY_LIMIT = 256 << 20
_TEXT_LIMIT = 64 << 10
_STATUS_LIMIT = 64 << 20

_PYTHON = re.compile(r"python(?:3(?:\.\d+)?)?|libpython3[\w.]*\.so[\d.]*")
_LIBC = re.compile(r"libc\.so\.6|libc-2\.\d+\.so")
_METADATA = re.compile(r".*\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_STATUS = re.compile(r"/var/lib/dpkg/status(?:\.d/[^/]+)?")

_VERSION_BYTES = re.compile(rb"(?<![0-9.])(3\.\d{1,2}\.\d{1,2}(?:(?:a|b|rc)\d{1,2})?)\+?\0")
_GLIBC_BYTES = re.compile(rb"GNU C Library [^\n]*?version (2\.\d+)")
_FIELD = re.compile(r"^(Name|Version):[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
_DPKG = re.compile(
    r"^Package: (?:lib)?python(3\.\d+)(?:-minimal|-stdlib)?$.*?^Version: (?:\d+:)?([^-\s]+)", re.MULTILINE | re.DOTALL
)
_RELEASE = re.compile(r"3\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


@dataclass(frozen=True, slots=True)
class BaseReading:
    """The facts, and which evidence gave Python's version: `binary`, `dpkg` or `environment`."""

    facts: BaseFacts
    python_source: str


def read_base_facts(image: Image) -> BaseFacts:
    """The facts of `image` as a base. Streams all its layers: minutes for a large remote one, so remember them by digest.

    Raises ImageError when it has no Python 3, no glibc (musl), a layer in zstd, or layers that play tricks.
    """
    return read_base(image).facts


def read_base(image: Image) -> BaseReading:
    """As `read_base_facts`, with the evidence beside it."""
    architecture, env = _config(image.config)
    tree = read_tree(image, _look)
    glibc = _glibc(tree, architecture)
    python = _find_python(tree, env.get("PATH") or _DEFAULT_PATH)
    version, source = _version(tree, python, env)
    debian = python.prefix == "/usr" and any(True for _ in _dpkg_files(tree))
    site = (
        f"{'/usr/local' if debian else python.prefix}/lib/python{python.minor}/{'dist' if debian else 'site'}-packages"
    )
    facts = BaseFacts(
        architecture=architecture,
        interpreter=python.path,
        python=version,
        site=site,
        scripts="/usr/local/bin" if debian else f"{python.prefix}/bin",
        glibc=glibc,
        installed=_installed(tree, python, [*filter(None, env.get("PYTHONPATH", "").split(":")), site]),
    )
    return BaseReading(facts, source)


def _config(data: bytes) -> tuple[str, Mapping[str, str]]:
    """Architecture and environment from an image config's bytes."""
    try:
        config = json.loads(data)
        run = config.get("config") or {}
        return str(config["architecture"]), dict(str(item).partition("=")[::2] for item in run.get("Env") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"the base's config is not one of an image ({type(error).__name__}: {error})"
        raise ImageError(what, where="base", mend="fetch or build the base again") from error


@dataclass(frozen=True, slots=True)
class _Binary:
    """A Python executable or library: the versions that its bytes could mean."""

    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Glibc:
    version: str


@dataclass(frozen=True, slots=True)
class _Distribution:
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class _Dpkg:
    pythons: Mapping[str, str]  # minor -> upstream version


@dataclass(frozen=True, slots=True)
class _Python:
    """`path` starts it, `real` is the file behind it, `prefix` its own folder (a virtual environment's where it is one)."""

    path: str
    real: str
    prefix: str
    minor: str
    binary: _Binary
    system_site: bool


def _look(path: str, size: int, stream: IO[bytes]) -> Any:
    """What one file says, if it is one of those that say something."""
    name = basename(path)
    if _PYTHON.fullmatch(name) and size <= _BINARY_LIMIT:
        data = stream.read()
        if not data.startswith(b"\x7fELF"):
            return None
        return _Binary(frozenset(match.decode() for match in _VERSION_BYTES.findall(data)))
    if _LIBC.fullmatch(name) and size <= _BINARY_LIMIT:
        match = _GLIBC_BYTES.search(stream.read())
        return _Glibc(match[1].decode()) if match else None
    if _METADATA.fullmatch(path):
        text = stream.read(_TEXT_LIMIT).decode("utf-8", "replace").replace("\r\n", "\n").partition("\n\n")[0]
        fields = dict(reversed(_FIELD.findall(text)))
        return _Distribution(fields["Name"], fields["Version"]) if len(fields) == 2 else None
    if _STATUS.fullmatch(path) and size <= _STATUS_LIMIT:
        text = stream.read().decode("utf-8", "replace")
        found = (match for part in text.split("\n\n") for match in _DPKG.findall(part))
        return _Dpkg({minor: version.replace("~", "") for minor, version in found})
    if name == "pyvenv.cfg":
        return stream.read(_TEXT_LIMIT).decode("utf-8", "replace")
    return None


def _find_python(tree: FileTree, search: str) -> _Python:
    """The first Python 3 on `search` that is a program (not a shim)."""
    for folder in filter(None, search.split(":")):
        for name in ("python3", "python"):
            path = join("/", folder, name)
            found = tree.resolve(path)
            if found is None or not isinstance(found[1], File) or not found[1].mode & 0o111:
                continue
            real, binary = found[0], found[1].found
            if isinstance(binary, _Binary) and (minor := _minor(tree, real)):
                venv = tree.resolve(join(dirname(dirname(path)), "pyvenv.cfg"))
                if venv is None or not isinstance(venv[1], File):
                    return _Python(real, real, _prefix(real), minor, binary, system_site=False)
                text = str(venv[1].found or "").lower().replace(" ", "")
                shared = "include-system-site-packages=true" in text
                return _Python(path, real, dirname(dirname(path)), minor, binary, system_site=shared)
    raise ImageError(
        f"the base has no Python 3 in its PATH ({search})",
        where="base",
        mend="choose a base with Python (python:3.x-slim, or a vendor's image), or the `debian` base",
    )


def _prefix(real: str) -> str:
    """`/usr/local` of `/usr/local/bin/python3.11`; `/usr` also where `/bin` is a folder of its own."""
    prefix = dirname(dirname(real))
    return "/usr" if prefix == "/" else prefix


def _minor(tree: FileTree, real: str) -> str:
    """`3.11`, from the file's name or from the one standard library in its prefix."""
    if match := re.fullmatch(r"python(3\.\d+)", basename(real)):
        return match[1]
    library = join(_prefix(real), "lib")
    minors = [name[6:] for name in tree.names(library) if re.fullmatch(r"python3\.\d+", name)]
    minors = [minor for minor in minors if "os.py" in tree.names(f"{library}/python{minor}")]
    return minors[0] if len(minors) == 1 else ""


def _version(tree: FileTree, python: _Python, env: Mapping[str, str]) -> tuple[str, str]:
    """The exact version and where it was read: the program's bytes, its library's, dpkg's word, the environment's."""
    library = f"libpython{python.minor}"
    libraries = [
        file.found
        for path, file in tree.walk()
        if isinstance(file.found, _Binary) and basename(path).startswith((f"{library}.", f"{library}t."))
    ]
    for binary in (python.binary, *libraries):
        versions = {version for version in binary.versions if version.startswith(f"{python.minor}.")}
        if len(versions) == 1:
            return versions.pop(), "binary"
    for file in _dpkg_files(tree):
        if _RELEASE.fullmatch(version := file.pythons.get(python.minor, "")):
            return version, "dpkg"
    stated = env.get("PYTHON_VERSION", "")
    if stated.startswith(f"{python.minor}.") and _RELEASE.fullmatch(stated):
        return stated, "environment"
    raise ImageError(
        f"the exact version of {python.path} cannot be told from the base",
        where="base",
        mend="set PYTHON_VERSION in the base's environment, as the official Python images do",
    )


def _dpkg_files(tree: FileTree) -> Iterator[_Dpkg]:
    """What dpkg's status says of Pythons: one file, or one each package where there is no dpkg to run."""
    found = tree.resolve("/var/lib/dpkg/status")
    nodes = [found[1]] if found is not None else []
    listed = tree.names("/var/lib/dpkg/status.d")
    nodes += [listed[name] for name in sorted(listed)]
    return (node.found for node in nodes if isinstance(node, File) and isinstance(node.found, _Dpkg))


def _glibc(tree: FileTree, architecture: str) -> str:
    triplet = _TRIPLETS.get(architecture, "")
    folders = (f"/lib/{triplet}", f"/usr/lib/{triplet}", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    for folder in folders:
        found = tree.resolve(f"{folder}/libc.so.6")
        if found is not None and isinstance(found[1], File) and isinstance(found[1].found, _Glibc):
            return found[1].found.version
    musl = any(name.startswith("ld-musl-") for name in tree.names("/lib"))
    raise ImageError(
        "the base stands on musl, where the wheels of engines do not run" if musl else "the base has no glibc",
        where="base",
        mend="choose a base that stands on glibc: Debian, Ubuntu, or a vendor's image of them (not Alpine)",
    )


def _installed(tree: FileTree, python: _Python, first: list[str]) -> Mapping[str, str]:
    """Canonical name -> version of the distributions that this Python imports, the earlier folder winning."""
    folders = list(first)
    home = _prefix(python.real) if python.system_site else python.prefix
    folders += [f"{home}/{library}/python{python.minor}/site-packages" for library in ("lib", "lib64")]
    if home == "/usr":
        folders.append(f"/usr/local/lib/python{python.minor}/dist-packages")
        folders += ["/usr/lib/python3/dist-packages", f"/usr/lib/python{python.minor}/dist-packages"]
    installed: dict[str, str] = {}
    for folder in folders:
        for name, node in sorted(tree.names(folder).items()):
            file = node
            if name.endswith((".dist-info", ".egg-info")) and not isinstance(node, File):
                inner = tree.names(f"{folder}/{name}")
                file = inner.get("METADATA") or inner.get("PKG-INFO") or node
            if isinstance(file, File) and isinstance(file.found, _Distribution):
                installed.setdefault(re.sub(r"[-_.]+", "-", file.found.name).lower(), file.found.version)
    return dict(sorted(installed.items()))
