"""The manifest: `model/manifest.json`, the only contract between host and container.

The host writes it, the container reads it; both sides use this module and the standard
library, nothing else. Field names are JSON keys. A manifest of a newer format is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .digest import readable_json
from .errors import PackageError

FORMAT = 4
MANIFEST_PATH = "model/manifest.json"
"""Where it lies in a package; Truss copies `model/` with the model's code."""
ADAPTERS_FOLDER = "adapters"
"""Where LoRA adapters stand beside the weights, each in a folder of its name."""


@dataclass(frozen=True, slots=True)
class EngineManifest:
    """Which adapter drives the model, and its options in the engine's own words.

    `quantization` is what the engine does to the weights when it loads them; `none` takes them as they are.
    """

    kind: str
    version: str
    options: Mapping[str, Any]
    quantization: str = "none"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of weights: relative POSIX path, size in bytes, hex sha256.

    `chunks` are the digests of its chunks (`weights/chunks.py`) where its bytes were at hand when it was locked, or
    empty: with them each chunk is checked as it comes, and a bad one is fetched again alone.
    """

    path: str
    size: int
    sha256: str
    chunks: str = ""


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """What `load()` must have of one source on disk, byte for byte, before the engine starts.

    `ship` is `in_image` (the files lie in the package's `data/` folder) or `on_load` (fetched from
    `source` into the local store). `entry` is the file or folder, relative to the weights' root,
    that the engine opens (`.` for the folder itself). `trusted_code` are those of the files, the tokenizer's among them,
    that run code and that the spec's author vouched for: the engine may run code of the weights when there are any.
    `compiled` is the engine.json of a compiled engine: what it was built with and for (`weights/compiled.py`).
    """

    source: str
    revision: str
    ship: str
    entry: str
    files: tuple[WeightsFile, ...]
    trusted_code: tuple[str, ...] = ()
    compiled: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServingManifest:
    """How requests are admitted and answered. Counts are requests, `*_seconds` seconds, `max_body` bytes.

    A time limit of None is none. `engine_restarts` is how often in an hour an engine that died is started again.
    `cors_origins` are the origins whose pages may ask; `*` means any. `triton` is which models Triton serves.
    """

    server: str
    api: str
    port: int
    max_concurrency: int
    max_queue: int
    drain_seconds: int
    max_body: int = 2 * 1024 * 1024
    first_token_seconds: int | None = 300
    token_gap_seconds: int | None = 60
    total_seconds: int | None = None
    engine_restarts: int = 3
    cors_origins: tuple[str, ...] = ()
    triton: str = "runtime"


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """What the image adds to the package: the container reads none of it.

    `base` names where a base image is pulled from (the lock has its digest), or is empty.
    """

    base: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One packaged model. `chat_template` is a path beside the manifest, or None.

    `tokenizer` are files from another source that stand among the weights, `adapters` are LoRA adapters by name.
    """

    name: str
    packager: str
    engine: EngineManifest
    weights: WeightsManifest | None
    serving: ServingManifest
    chat_template: str | None = None
    image: ImageManifest = field(default_factory=ImageManifest)
    tokenizer: WeightsManifest | None = None
    adapters: Mapping[str, WeightsManifest] = field(default_factory=dict)

    def folders(self) -> dict[str, tuple[WeightsManifest, ...]]:
        """What goes into each folder that `load()` lays out: an empty name for the engine's own, `adapters/NAME`.

        All that a package has of weights, shipped or not; nothing for an engine without.
        """
        own = tuple(part for part in (self.weights, self.tokenizer) if part is not None)
        adapters = {f"{ADAPTERS_FOLDER}/{name}": (adapter,) for name, adapter in self.adapters.items()}
        return ({"": own} if own else {}) | adapters

    def to_bytes(self) -> bytes:
        """The JSON file's bytes: a pure function of the fields."""
        return readable_json({"format": FORMAT, **asdict(self)})


def read_manifest(package: Path) -> Manifest:
    """The manifest of the package folder `package`.

    Raises PackageError when it is missing, no JSON, of another format, or a field is off.
    """
    path = package / MANIFEST_PATH
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        mend = "give the folder that `packager build` wrote, for example dist/NAME"
        raise PackageError("this folder is not a package: it has no manifest", where=str(path), mend=mend) from None
    except OSError as error:
        mend = "give this user the right to read the package"
        raise PackageError(f"the manifest cannot be read: {error.strerror}", where=str(path), mend=mend) from error
    except ValueError as error:
        raise PackageError(
            f"the manifest is not JSON: {error}", where=str(path), mend="build the package again"
        ) from error
    return parse_manifest(value, where=str(path))


def parse_manifest(value: Any, *, where: str) -> Manifest:
    """A manifest from decoded JSON; `where` names its file in errors."""
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise PackageError(
            f"the manifest has format {found!r}; this runtime reads format {FORMAT}",
            where=where,
            mend="build the package again with the packager that runs it",
        )
    try:
        manifest: Manifest = decode(Manifest, {key: one for key, one in value.items() if key != "format"})
    except ValueError as error:
        raise PackageError(f"the manifest is damaged: {error}", where=where, mend="build the package again") from error
    return manifest


def decode(kind: Any, value: Any, place: str = "") -> Any:
    """Decoded JSON as `kind`: str, int, None or a literal, or a dataclass, tuple or mapping of such.

    Of several dataclasses the one with the value's keys is meant. Raises ValueError that names the place
    (`weights.files[0].size`) where a key is missing or unknown, or a value of another type.
    """
    if kind is Any:
        return value
    arguments = get_args(kind)
    if get_origin(kind) is UnionType:
        return decode(_choose(arguments, value), value, place)
    if is_dataclass(kind) and isinstance(value, dict):
        return _decode_fields(kind, value, place)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], one, f"{place}[{number}]") for number, one in enumerate(value))
    if get_origin(kind) is Mapping and isinstance(value, dict):
        return {key: decode(arguments[1], one, f"{place}.{key}") for key, one in value.items()}
    if type(value) is kind or (get_origin(kind) is Literal and value in arguments):  # not isinstance: True is no size
        return value
    raise ValueError(f"{place or 'it'} cannot be {json.dumps(value)[:60]}")


def _choose(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and NoneType in kinds:
        return NoneType
    others = [one for one in kinds if one is not NoneType]
    keys = value.keys() if isinstance(value, dict) else ()
    fitting = [one for one in others if is_dataclass(one) and {each.name for each in fields(one)} == keys]
    return (fitting or others)[0]


def _decode_fields(kind: Any, value: Mapping[str, Any], place: str) -> Any:
    types = get_type_hints(kind)
    prefix = f"{place}." if place else ""
    wrong = sorted({one.name for one in fields(kind)} ^ value.keys())
    if wrong:
        raise ValueError(f"{prefix}{wrong[0]} is {'unknown' if wrong[0] in value else 'missing'}")
    return kind(**{name: decode(types[name], one, prefix + name) for name, one in value.items()})
