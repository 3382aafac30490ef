"""Weights: where the model's bytes come from and how they reach the container."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from .grammar import AsTuple, Grammar, RelativePath, Strict, problem, quoted

PLANNED_SCHEMES = ("hf", "https", "s3", "oci")
"""Schemes of the design that this version cannot read yet."""

_MEND = "write file://PATH; a relative PATH starts at the spec's folder"


def _source(text: str) -> None:
    scheme, separator, path = text.partition("://")
    if not separator:
        mend = f"write file://{text}" if re.fullmatch(r"[\w./-]+", text) else _MEND
        raise problem(f"must name its scheme, not just {quoted(text)}", mend)
    if scheme in PLANNED_SCHEMES:
        raise problem(f"cannot be {scheme}:// yet: this version of packager reads file:// only", _MEND)
    if scheme != "file":
        raise problem(f"has an unknown scheme {quoted(scheme)}", _MEND)
    if not path:
        raise problem("names no path", _MEND)


class WeightsSpec(Strict):
    """The model's bytes."""

    source: Annotated[str, Grammar(be="a source", check=_source)]
    """Where the weights are: `file://PATH`, a file or a folder. A relative PATH starts at the spec's folder;
    the text after `file://` is taken as it stands (no % escapes)."""
    file: RelativePath | None = None
    """The file the engine opens, when the source is a folder."""
    include: Annotated[tuple[RelativePath, ...], AsTuple, Field(min_length=1)] | None = None
    """Patterns (`*`, `?`, `[...]`, relative to the source folder) of the files to take; without it all."""
    chat_template: RelativePath | None = None
    """Jinja chat template, a file below the spec's folder; without it the one in the weights."""
    ship: Annotated[Literal["in_image", "on_load"], Field(validate_default=True)] = "in_image"
    """`in_image` puts the weights into the package and the image; `on_load` fetches them when the container starts."""

    @property
    def path(self) -> Path:
        """The path of a `file://` source, as written: absolute, or relative to the spec's folder."""
        return Path(self.source.removeprefix("file://"))

    @field_validator("ship", mode="after")
    @classmethod
    def _ship_fits_source(cls, ship: str, info: ValidationInfo) -> str:
        source = info.data.get("source")
        if ship == "on_load" and source is not None and not source.startswith("file:///"):
            what = f"cannot be on_load: the container cannot find {quoted(source)} relative to a spec"
            raise problem(what, "write `ship: in_image`, or an absolute file:///PATH that the container mounts")
        return ship

    def resolved(self, folder: Path) -> Path:
        """The source's path, a relative one below `folder`."""
        return folder / self.path
