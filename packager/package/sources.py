"""Reads the bytes that every package copies: the container side and the templates."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from ..errors import SpecError
from ..spec.load import SpecFile
from .plan import Ingredients

_ROOT = Path(__file__).resolve().parent.parent
_WORDS = ("__init__.py", "digest.py", "environ.py", "errors.py", "fetch.py", "manifest.py", "store.py")
_FOLDERS = ("runtime", "weights")


def read_ingredients(file: SpecFile) -> Ingredients:
    """Everything `plan_package` copies. Raises SpecError for a chat template that cannot be read."""
    return Ingredients(
        templates=_tree(_ROOT / "_truss_templates"),
        runtime=runtime_files(),
        chat_template=_chat_template(file),
        version=version("llm-packager"),
    )


def _chat_template(file: SpecFile) -> bytes | None:
    name = file.spec.weights.chat_template if file.spec.weights else None
    if name is None:
        return None
    try:
        return (file.folder / name).read_bytes()
    except OSError as error:
        raise SpecError(
            f"the chat template {name} cannot be read: {(error.strerror or str(error)).lower()}",
            where=file.where("weights", "chat_template"),
            mend="its path starts at the spec's folder; leave it out to use the one in the weights",
        ) from error


def runtime_files() -> Mapping[str, bytes]:
    """The modules of the container side, by path below the vendored package."""
    files = {name: (_ROOT / name).read_bytes() for name in _WORDS}
    # The vendored package has another name and no lazy API: its __init__ says only what it is.
    files["__init__.py"] = b'"""The container side of packager, vendored into this package. Do not edit."""\n'
    for name in _FOLDERS:
        files |= {f"{name}/{path}": data for path, data in _tree(_ROOT / name).items()}
    return files


def _tree(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
