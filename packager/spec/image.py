"""The image: its name, what it stands on, and what it holds besides the engine and the model."""

from collections.abc import Mapping
from typing import Annotated, Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import Field

from .grammar import AsTuple, Grammar, Line, Strict, keys_of, problem, quoted

# The grammar of distribution/reference, which all registries share.
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"

Repository = Annotated[
    str,
    Grammar(
        rf"{_HOST}(?:/{_PART})*",
        "a registry and a path without tag, such as registry.example.com/team",
        255,
        "the tag has its own field: `image.tag`",
    ),
]
Tag = Annotated[str, Grammar(_TAG, "a tag: letters, digits, `.`, `_` and `-`", 128)]
Reference = Annotated[
    str,
    Grammar(
        rf"{_NAME}(?::{_TAG})?(?:@sha256:[0-9a-f]{{64}})?",
        "an image reference",
        400,
        "write HOST/PATH:TAG or HOST/PATH@sha256:DIGEST, the path in lower case",
    ),
]
DebianName = Annotated[str, Grammar(r"[a-z0-9][a-z0-9+.-]+", "a Debian package name, without version or options", 128)]
_ENV_NAME = Grammar(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and `_`", 128)
_LABEL_NAME = Grammar(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?", "a label name", 128)
EnvName = Annotated[str, _ENV_NAME]
LabelName = Annotated[str, _LABEL_NAME]


def _requirement(text: str) -> None:
    mend = "write a requirement such as `pillow>=11,<12`"
    if text.startswith("-"):
        raise problem(f"must be a requirement, not the option {quoted(text)}", mend)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise problem(f"must be a requirement such as `pillow>=11`, not {quoted(text)}") from error
    if requirement.url is not None:
        raise problem(f"must not name an address: {quoted(text)}", "put the wheel in an index, and name its version")


class DebianBase(Strict):
    """A base of locked Debian packages, assembled by packager."""

    kind: Literal["debian"]
    """Locked Debian packages, unpacked without running their scripts."""
    suite: Annotated[str, Grammar(r"[a-z][a-z0-9-]*", "a Debian suite such as bookworm", 32)] | None = None
    """Debian suite, such as `bookworm`; without it the recipe's."""


class RegistryBase(Strict):
    """A base image from a registry, locked by its digest."""

    kind: Literal["registry"]
    """An image of a registry; the lock pins its digest."""
    image: Reference
    """Reference of the base image."""


class LayoutBase(Strict):
    """A base image in a local folder."""

    kind: Literal["layout"]
    """An OCI layout in a local folder."""
    path: Annotated[str, Grammar(r".+", "a path")]
    """Folder of the OCI layout; a relative one starts at the spec's folder."""


BaseSpec = Annotated[DebianBase | RegistryBase | LayoutBase, Field(discriminator="kind")]


class ImageSpec(Strict):
    """What the image is called, what it stands on, and what it holds besides engine and model."""

    repository: Repository | None = None
    """Registry and path the image's name is put under: the image is REPOSITORY/NAME:TAG."""
    tag: Tag | None = None
    """Tag of the image; without it `latest`."""
    base: BaseSpec | None = None
    """What the image stands on; without it the recipe's base."""
    system_packages: Annotated[tuple[DebianName, ...], AsTuple] = ()
    """Debian packages to add, by name; the lock pins their versions."""
    python_packages: Annotated[
        tuple[Annotated[str, Grammar(r".+", "a requirement", 512, check=_requirement)], ...], AsTuple
    ] = ()
    """Python requirements to add (PEP 508, no addresses, no options); the lock pins their wheels."""
    env: Mapping[EnvName, Line] = Field(default_factory=dict, json_schema_extra=keys_of(_ENV_NAME))
    """Environment variables of the container. They are readable by everyone who has the image: no secrets here."""
    labels: Mapping[LabelName, Line] = Field(default_factory=dict, json_schema_extra=keys_of(_LABEL_NAME))
    """Labels of the image."""
