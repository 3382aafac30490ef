"""What is to be uploaded: the weights of a package, or a folder or file of them, each with its sha256.

What a spec would refuse to read is refused here too: code, pickles, links, odd names, an engine without its engine.json.
"""

from collections.abc import Sequence
from pathlib import Path

from ..errors import LoadError, OutputError, Problem
from ..manifest import MANIFEST_PATH, read_manifest
from ..store import Store
from ..weights.compiled import FILE, PLANS, disagreements, read_build
from ..weights.file import FileSource
from ..weights.identity import OnBytes, file_digest
from ..weights.load import DATA_FOLDER
from ..weights.policy import refuse, refuse_pickle
from ..weights.source import SourceFile
from .plan import LocalFile

_DATA_FILES = ("model.bin",)
"""CTranslate2's own format, under a name that a pickle may have: its first bytes tell (recipes/ctranslate2.py)."""


def collect(what: Path, store: Store, on_bytes: OnBytes | None = None) -> tuple[LocalFile, ...]:
    """The files to upload of `what`: a package, a folder or a file. Raises OutputError, PackageError."""
    if (what / MANIFEST_PATH).is_file():
        files = _of_package(what, store, on_bytes)
    else:
        files = _of_folder(what, store, on_bytes)
    if problems := _engines(files, str(what)):
        raise OutputError.collect(problems)
    return files


def _of_package(package: Path, store: Store, on_bytes: OnBytes | None) -> tuple[LocalFile, ...]:
    """The package's weights, wherever it has them; each must still be what its manifest says.

    A tokenizer from elsewhere and LoRA adapters have sources of their own, and are not among them.
    """
    weights = read_manifest(package).weights
    if weights is None:
        mend = "name a folder of weights, or a package of an engine that has some"
        raise OutputError("this package has no weights", where=str(package), mend=mend)
    _check_policy([SourceFile(one.path, one.size) for one in weights.files], str(package), weights.trusted_code)
    shipped = weights.ship == "in_image"
    places = [package / DATA_FOLDER / one.path if shipped else store.path(one.sha256) for one in weights.files]
    lacking = [one.path for one, place in zip(weights.files, places, strict=True) if not place.is_file()]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        mend = "build the package again" if shipped else f"fetch them first: `packager fetch {package}`"
        raise OutputError(f"the weights are not on this machine: {lacking[0]}{more}", where=str(package), mend=mend)
    for one, place in zip(weights.files, places, strict=True):
        if file_digest(place, store, on_bytes) != one.sha256:
            mend = "build the package again from its spec" if shipped else "run `packager store verify --remove`"
            what = f"{one.path} is not what was packaged: it has another sha256"
            raise OutputError(what, where=str(place), mend=mend)
    pairs = zip(weights.files, places, strict=True)
    return tuple(LocalFile(one.path, place, one.size, one.sha256) for one, place in pairs)


def _of_folder(what: Path, store: Store, on_bytes: OnBytes | None) -> tuple[LocalFile, ...]:
    source = FileSource(what)
    try:
        listed = source.inventory()
    except LoadError as error:
        raise OutputError.collect(error.problems) from error
    if not listed:
        raise OutputError("there is nothing to upload here", where=str(what), mend="name a folder with weights in it")
    _check_policy(listed, str(what), None)
    heads = [
        problem
        for one in listed
        if one.path in _DATA_FILES
        for problem in refuse_pickle(one.path, _head(source.locate(one.path)), where=str(what))
    ]
    if heads:
        raise OutputError.collect(heads)
    return tuple(
        LocalFile(one.path, place := source.locate(one.path), one.size, file_digest(place, store, on_bytes))
        for one in listed
    )


def _check_policy(files: Sequence[SourceFile], where: str, trusted: Sequence[str] | None) -> None:
    if problems := refuse(files, where=where, data_files=_DATA_FILES, trusted=trusted):
        raise OutputError.collect(problems)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _engines(files: Sequence[LocalFile], where: str) -> tuple[Problem, ...]:
    """Compiled engines that no engine.json beside them describes, or that it describes otherwise."""
    named = {file.path: file for file in files}
    folders = sorted({file.path.rpartition("/")[0] for file in files if file.path.endswith(PLANS)})
    found: list[Problem] = []
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        place = f"{where}/{folder}".rstrip("/")
        description = named.get(f"{prefix}{FILE}")
        if description is None:
            what = f"a compiled engine has no {FILE} beside it: nobody can tell which GPU and software it is for"
            mend = f"run `packager engine describe {place}` on the machine that compiled it"
            found.append(Problem(what, place, mend))
            continue
        try:
            build = read_build(description.local.read_bytes())
        except ValueError as error:
            mend = f"run `packager engine describe {place} --force` on the machine that compiled it"
            found.append(Problem(f"{FILE} cannot be read: {error}", str(description.local), mend))
            continue
        beside = (
            SourceFile(path.removeprefix(prefix), one.size, one.sha256)
            for path, one in named.items()
            if path.startswith(prefix)
        )
        found += disagreements(build, beside, where=place)
    return tuple(found)
