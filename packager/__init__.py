"""packager turns a model spec into a self-contained package and a reproducible container image.

    from pathlib import Path
    import packager

    spec = packager.load_spec(Path("examples/hello"))
    built = packager.build(Path("examples/hello"), packager.BuildOptions(), packager.default_tools())
    model = packager.load("dist/hello")
    print(model.predict({"prompt": "Hello"}))

Names are loaded when they are first used: importing packager costs nothing.
"""

import importlib

TYPE_CHECKING = False  # what typing has, which takes longer to import than all of this: Ctrl-C would be a traceback
if TYPE_CHECKING:
    from typing import Any

    from .errors import PackagerError as PackagerError
    from .image.assemble import assemble_image as assemble_image
    from .image.plan import plan_image as plan_image
    from .lock.resolve import resolve as resolve
    from .lock.tools import Tools as Tools
    from .lock.tools import default_tools as default_tools
    from .oci.layout import read_layout as read_layout
    from .oci.layout import write_layout as write_layout
    from .oci.registry import push_image as push_image
    from .package.plan import plan_package as plan_package
    from .package.read import read_package as read_package
    from .package.sources import read_ingredients as read_ingredients
    from .package.write import write_package as write_package
    from .pipeline import BuildOptions as BuildOptions
    from .pipeline import build as build
    from .runtime.model import load as load
    from .runtime.serve import serve as serve
    from .spec.load import load_spec as load_spec

_PLACES = {
    "BuildOptions": "pipeline",
    "PackagerError": "errors",
    "Tools": "lock.tools",
    "assemble_image": "image.assemble",
    "build": "pipeline",
    "default_tools": "lock.tools",
    "load": "runtime.model",
    "load_spec": "spec.load",
    "plan_image": "image.plan",
    "plan_package": "package.plan",
    "push_image": "oci.registry",
    "read_ingredients": "package.sources",
    "read_layout": "oci.layout",
    "read_package": "package.read",
    "resolve": "lock.resolve",
    "serve": "runtime.serve",
    "write_layout": "oci.layout",
    "write_package": "package.write",
}

__all__ = [*_PLACES]  # noqa: PLE0604  # a literal list of the table's keys would be a second copy


def __getattr__(name: str) -> "Any":
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
