"""Reads the bytes that every package copies: the container side and the templates."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from ..errors import PackageError
from ..spec.model import ModelSpec
from .plan import Ingredients

_ROOT = Path(__file__).resolve().parent.parent
_WORDS = ("__init__.py", "digest.py", "environ.py", "errors.py", "manifest.py", "store.py")
_FOLDERS = ("runtime", "weights")


def read_ingredients(spec: ModelSpec, folder: Path) -> Ingredients:
    """Everything `plan_package` copies; `folder` is the spec's, where its chat template lies."""
    template = spec.weights.chat_template if spec.weights else None
    try:
        return Ingredients(
            templates=_tree(_ROOT / "_truss_templates"),
            runtime=runtime_files(),
            chat_template=(folder / template).read_bytes() if template else None,
            version=version("llm-packager"),
        )
    except OSError as error:
        mend = "put the file beside the spec" if template else "install packager again"
        raise PackageError(f"a file cannot be read: {error.strerror}", where=str(error.filename), mend=mend) from error


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
