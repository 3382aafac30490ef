"""Names of images: `registry.example.com:5000/team/name:tag@sha256:...`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ImageError

DEFAULT_REGISTRY = "docker.io"
_ALIASES = {"index.docker.io": DEFAULT_REGISTRY, "registry-1.docker.io": DEFAULT_REGISTRY}

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME_LIMIT = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """One image's name. `tag` and `digest` (`sha256:...`) may be empty; with both, the digest decides."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def with_tag(self, tag: str) -> "Reference":
        """The same repository under `tag`, without a digest; ImageError when it is no tag."""
        _check(_TAG.fullmatch(tag), "a tag is up to 128 letters, digits, `_`, `.` or `-`", tag, f"{self.name}:{tag}")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> "Reference":
        """The same repository at `digest`, without a tag; ImageError when it is no sha256 digest."""
        _check(_DIGEST.fullmatch(digest), _DIGEST_RULE, digest, f"{self.name}@{digest}")
        return replace(self, tag="", digest=digest)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


_DIGEST_RULE = "a digest is `sha256:` and 64 lower-case hex digits"


def parse_reference(text: str) -> Reference:
    """Read a reference as Docker does: no registry means docker.io, there a lone name means `library/NAME`.

    Raises ImageError with what is wrong and, where it can be told, the name that was meant.
    """
    if match := re.match(r"(https?|oci|docker)://", text):
        _fail(f"an image reference has no {match[1]}://", text, f"write {text[match.end() :]}")
    rest, at, digest = text.partition("@")
    if at:
        _check(_DIGEST.fullmatch(digest), _DIGEST_RULE, digest, text)
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon:
        _check(_TAG.fullmatch(tag), "a tag is up to 128 letters, digits, `_`, `.` or `-`", tag, text)
    name = head + slash + last
    first, slash, repository = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        first, repository = DEFAULT_REGISTRY, name
    elif not _HOST.fullmatch(first):
        lower = text.lower() if first != first.lower() else ""
        _fail(f"{first!r} is no registry host", text, f"did you mean {lower}?" if lower else "")
    registry = _ALIASES.get(first.lower(), first.lower())
    _check_repository(repository, text)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(registry, repository, tag, digest)


def parse_mirrors(text: str) -> dict[str, str]:
    """`HOST=MIRROR[/PREFIX]` pairs, comma-separated, as a mapping; ImageError for a pair that is none."""
    mirrors = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        host, equals, mirror = (part.strip() for part in pair.partition("="))
        if not equals or not _HOST.fullmatch(host) or not _HOST.fullmatch(mirror.partition("/")[0]):
            _fail(
                "a mirror is written HOST=MIRROR or HOST=MIRROR/PREFIX", pair, "for example docker.io=cache.example.com"
            )
        mirrors[_ALIASES.get(host, host)] = mirror.rstrip("/")
    return mirrors


def apply_mirrors(reference: Reference, mirrors: Mapping[str, str]) -> Reference:
    """Where to read `reference` from: its registry's mirror (`HOST` or `HOST/PREFIX`), else itself."""
    mirror = mirrors.get(reference.registry)
    if mirror is None:
        return reference
    host, slash, prefix = mirror.partition("/")
    return replace(reference, registry=host, repository=f"{prefix}{slash}{reference.repository}")


def _check_repository(repository: str, text: str) -> None:
    if not repository:
        _fail("the reference names no repository", text, "write REGISTRY/TEAM/NAME:TAG")
    for part in repository.split("/"):
        if _PART.fullmatch(part):
            continue
        meant = re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-._")
        hint = f"did you mean {text.replace(part, meant, 1)}?" if part and _PART.fullmatch(meant) else ""
        _fail(
            f"{part!r} cannot be part of a repository: lower-case letters, digits and single `.`, `_`, `-` between",
            text,
            hint,
        )
    if len(repository) > _NAME_LIMIT:
        _fail(f"a repository name has at most {_NAME_LIMIT} characters", text, "")


def _check(ok: object, rule: str, found: str, text: str) -> None:
    if not ok:
        _fail(f"{rule}; found {found!r}", text, "")


def _fail(what: str, where: str, mend: str) -> None:
    raise ImageError(what, where=where, mend=mend or "write REGISTRY/TEAM/NAME:TAG or REGISTRY/TEAM/NAME@sha256:...")
