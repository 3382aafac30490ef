"""The adapters, one file each. An engine's library is imported only when its engine is opened."""

import re
from dataclasses import fields
from importlib import import_module
from typing import Any, TypeVar, cast

from ...errors import LoadError
from ..engine import Engine, EngineSetup

ADAPTERS: dict[str, str] = {
    "ctranslate2": "ctranslate2:CTranslate2Engine",
    "echo": "echo:EchoEngine",
    "llama_cpp": "llama_cpp:LlamaCppEngine",
    "tensorrt_llm": "tensorrt_llm:TensorrtLlm",
    "tensorrt_llm_engine": "tensorrt_llm_engine:TensorrtLlmEngine",
    "lmdeploy": "lmdeploy:LmdeployEngine",
    "transformers": "transformers:TransformersEngine",
    "vllm": "vllm:VllmEngine",
}
"""Engine kind -> `module:Class` in this folder. A class is called with an EngineSetup."""

_MISSING_LIBRARY = re.compile(r"(?P<file>(?P<name>lib[\w+-]+)\.so\.(?P<version>\d+)): cannot open shared object file")

Options = TypeVar("Options")


def open_engine(kind: str, setup: EngineSetup) -> Engine:
    """The adapter for `kind`, not started. Raises LoadError when it is unknown or its library is missing."""
    try:
        module, name = ADAPTERS[kind].split(":")
    except KeyError:
        raise LoadError(
            f"this runtime has no adapter for the engine {kind!r}; it has {', '.join(sorted(ADAPTERS))}",
            mend="build the package again with a packager that knows the engine",
        ) from None
    try:
        adapter: Any = getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        raise LoadError(
            f"the engine {kind} needs the Python module {error.name!r}, which is not installed",
            mend="install the package's requirements.txt",
        ) from error
    except ImportError as error:
        raise _cannot_import(kind, error) from error
    return cast("Engine", adapter(setup))


def _cannot_import(kind: str, error: ImportError) -> LoadError:
    missing = _MISSING_LIBRARY.match(str(error))
    if missing is None:
        return LoadError(
            f"the engine {kind} cannot be imported: {error}", mend="install the package's requirements.txt as it is"
        )
    library, name, version = missing.group("file", "name", "version")
    package = (
        f"{name.lower().replace('_', '-')}{'-' if name[-1].isdigit() else ''}{version}"  # Debian's rule for libraries
    )
    return LoadError(
        f"the engine {kind} needs the system library {library}, which this machine lacks",
        mend=f"install it (on Debian and Ubuntu: `apt-get install {package}`), or run the image, which has it",
    )


def read_options(form: type[Options], setup: EngineSetup) -> Options:
    """The setup's options as the dataclass `form`; None counts as not given.

    Raises LoadError for an option that `form` lacks: an ignored option would be a lie.
    """
    given = {name: value for name, value in setup.options.items() if value is not None}
    known = {field.name for field in fields(cast("Any", form))}
    if unknown := sorted(given.keys() - known):
        raise LoadError(
            f"the adapter does not know the option {unknown[0]!r}; it knows {', '.join(sorted(known))}",
            where="model/manifest.json",
            mend="build the package again",
        )
    return form(**given)
