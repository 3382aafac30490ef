"""The catalog: names of example specs that can be built as they are.

The examples lie beside the package in its source tree. They are not installed with it (their weights would be, too):
an installed packager has an empty catalog and builds paths.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from .errors import SpecError
from .manifest import MANIFEST_PATH
from .spec.load import SPEC_NAME
from .spec.parse import parse_yaml

REFUSAL = "refusal.txt"
"""What `packager lock` says of an example that no supported engine serves."""
_TREE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One example: its name, its spec's description, and its folder.

    `refused` says that no supported engine serves it: it is there for the reason, and for what to use instead.
    """

    name: str
    summary: str
    path: Path
    refused: bool


def catalog(tree: Path = _TREE) -> tuple[CatalogEntry, ...]:
    """The examples of the source tree `tree` by name; none when it is not one."""
    # A folder `examples` beside an installed package belongs to somebody else.
    if not (tree / "pyproject.toml").is_file():
        return ()
    specs = sorted((tree / "examples").glob(f"*/{SPEC_NAME}"))
    return tuple(_entry(spec) for spec in specs)


def find(name_or_path: str, tree: Path = _TREE) -> Path:
    """The path that a command means: a spec, a folder with a spec or a package, or the folder of a catalog name.

    What exists on disk comes before the catalog. Raises SpecError when a bare name is neither.
    """
    path = Path(name_or_path)
    if path.is_file() or (path / SPEC_NAME).is_file() or (path / MANIFEST_PATH).is_file():
        return path
    entries = {entry.name: entry.path for entry in catalog(tree)}
    if name_or_path in entries:
        return entries[name_or_path]
    if path.exists() or len(path.parts) != 1 or path.suffix in {".yaml", ".yml"}:
        return path  # reading it says what is wrong
    raise SpecError(
        "no file, folder or catalog entry has this name", where=name_or_path, mend=_mend(path.name, [*entries])
    )


def _mend(name: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean `{near[0]}`? `packager catalog` lists the names"
    without = "" if known else "the examples are not installed with packager, they lie in its source tree: "
    return f"{without}give the path of a spec; `packager init {name}` makes one"


def _entry(spec: Path) -> CatalogEntry:
    value = parse_yaml(spec.read_bytes()).value
    text = value.get("description") if isinstance(value, dict) else None
    refused = (spec.parent / REFUSAL).is_file()
    return CatalogEntry(spec.parent.name, text if isinstance(text, str) else "", spec.parent, refused)
