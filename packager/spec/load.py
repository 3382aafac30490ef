"""From a path to a checked spec."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from ..errors import Problem, SpecError
from .image import LayoutBase, RegistryBase
from .model import ModelSpec
from .parse import MAX_BYTES, Document, Position, parse_yaml
from .problems import judge, position_of

SPEC_NAME = "packager.yaml"


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A spec and the file it was read from.

    `path` is absolute; `shown` is how messages name it: relative to the working folder when that is shorter.
    """

    spec: ModelSpec
    path: Path
    shown: str
    _document: Document = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the spec start at."""
        return self.path.parent

    def where(self, *keys: str | int) -> str:
        """`packager.yaml:7:11`, the place of a value (or of what it would belong to, when it is not written)."""
        position = position_of(self._document, keys)
        return f"{self.shown}:{position.line}:{position.column}"


def on_base(file: SpecFile, base: str | None) -> SpecFile:
    """The same spec on another base: a reference of a registry image, or the folder of an OCI layout; None changes nothing.

    Raises SpecError for what is neither.
    """
    if base is None:
        return file
    folder = Path(base).absolute()
    try:
        if folder.is_dir():
            within = folder.relative_to(file.folder) if folder.is_relative_to(file.folder) else folder
            chosen: LayoutBase | RegistryBase = LayoutBase(kind="layout", path=str(within))
        else:
            chosen = RegistryBase(kind="registry", image=base)
    except ValidationError as error:
        what = f"{base[:100]!r} names neither an image of a registry nor the folder of an OCI layout"
        raise SpecError(what, where="--base", mend="such as registry.example.com/team/base:1") from error
    image = file.spec.image.model_copy(update={"base": chosen})
    return replace(file, spec=file.spec.model_copy(update={"image": image}))


def load_spec(path: Path) -> SpecFile:
    """Read and check the spec at `path`, a file or a folder that holds `packager.yaml`.

    Raises SpecError with every problem found, in the order of the file.
    """
    full = path.absolute()  # not resolve(): a link to a spec keeps its own folder
    if full.is_dir():
        full /= SPEC_NAME
    shown = _shown(full)
    document = parse_yaml(_read(full, shown))
    spec = check(document)
    if document.problems or spec is None:
        ordered = sorted(document.problems, key=lambda item: item[0])
        raise SpecError.collect(_placed(shown, *item) for item in ordered)
    return SpecFile(spec, full, shown, document)


def check(document: Document) -> ModelSpec | None:
    """The document's value as a spec, or None after noting in `document` what is wrong."""
    if () in document.poisoned or (document.problems and document.value is None):
        return None
    if not isinstance(document.value, Mapping):
        has = "the file is empty" if document.value is None else "a spec is a mapping of keys to values"
        document.refuse(Position(1, 1), has, "start with `name:` and `engine:`; `packager init NAME` writes an example")
        return None
    try:
        return ModelSpec.model_validate(document.value)
    except ValidationError as error:
        document.problems += judge(error.errors(include_url=False), document)
        return None


def _placed(shown: str, position: Position, problem: Problem) -> Problem:
    return Problem(problem.what, where=f"{shown}:{position.line}:{position.column}", mend=problem.mend)


def _read(path: Path, shown: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise SpecError("this is not a regular file", where=shown, mend=f"give a folder or its {SPEC_NAME}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        mend = "give a folder that holds one, a file, or a name from `packager catalog`; `packager init NAME` makes one"
        raise SpecError("there is no spec here", where=shown, mend=mend) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        mend = "give this user the right to read it"
        raise SpecError(f"the spec cannot be read: {reason.lower()}", where=shown, mend=mend) from error


def _shown(path: Path) -> str:
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the working folder is gone, or the path holds a NUL
        return str(path)
    return relative if len(relative) <= len(str(path)) else str(path)
