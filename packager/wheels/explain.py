"""What uv says when it fails, as one error with a cause and a next step."""

import re
from collections.abc import Mapping, Sequence

from packaging.utils import canonicalize_name
from packaging.version import Version

from ..errors import ResolveError
from .index import hide_secrets

_NETWORK = re.compile(r"Request failed|Failed to fetch|error sending request|dns error|Connection refused|timed out")
_REFUSED = re.compile(r"\((401 Unauthorized|403 Forbidden)\)")
_UNKNOWN = re.compile(r"([\w.-]+) was not found in the (?:package registry|provided package locations)")
_TAGS = r"((?:`[^`]+`(?:,? and |, )?)+)"
_PLATFORMS = re.compile(rf"Wheels are available for `([^`]+)` \(v?([^)]+)\) on the following platforms?: {_TAGS}")
_PYTHONS = re.compile(rf"only found wheels for `([^`]+)` \(v?([^)]+)\) with the following Python[\w ]* tags?: {_TAGS}")
_SOURCE = re.compile(r"Wheels are required for `([^`]+)` because building from source is disabled")
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)={2,3}([^\s,]+)")
_LONGEST_REASON = 1200


def explain(stderr: str, target: str, installed: Mapping[str, Version]) -> ResolveError:
    """The ResolveError for uv's `stderr`.

    `target` describes the interpreter and platform; `installed` is what the base already has.
    """
    lines = hide_secrets(stderr).splitlines()
    text = _one_line(lines)
    if found := _REFUSED.search(text):
        return ResolveError(
            f"the package index refused: {found[1]}",
            mend="check the index's credentials (in its URL, in .netrc or in a keyring)",
        )
    if _NETWORK.search(text):
        return ResolveError(
            f"the package index cannot be reached: {_last_cause(lines)}",
            mend="check the network and the index that pip or uv is configured with (`python -m pip config list`)",
        )
    if found := _UNKNOWN.search(text):
        return ResolveError(
            f"no configured package index has {found[1]}",
            where=found[1],
            mend="check its spelling, or configure the index that has it (PIP_EXTRA_INDEX_URL)",
        )
    return _no_wheel(text, target) or _unsatisfiable(_reason(text), installed)


def _no_wheel(text: str, target: str) -> ResolveError | None:
    found = _PLATFORMS.search(text) or _PYTHONS.search(text)
    if found:
        tags = ", ".join(sorted(set(re.findall(r"`([^`]+)`", found[3]))))
        return ResolveError(
            f"{found[1]} {found[2]} has no wheel for {target}; it has wheels for: {tags}",
            where=found[1],
            mend="pin a version that has one, or choose a base that one of these fits",
        )
    if found := _SOURCE.search(text):
        name = found[1]
        return ResolveError(
            f"{name} is published as source only; images take wheels",
            where=name,
            mend=f"build it once with `pip wheel {name}` and name the folder in PIP_FIND_LINKS",
        )
    return None


def _unsatisfiable(reason: str, installed: Mapping[str, Version]) -> ResolveError:
    pinned = {(canonicalize_name(name), version.rstrip(".")) for name, version in _PIN.findall(reason)}
    clashes = [f"{name} {version}" for name, version in installed.items() if (name, str(version)) in pinned]
    if clashes:
        return ResolveError(
            f"the base already has {', '.join(clashes)}, which the requirements do not allow: {reason}",
            mend="choose a base with a version that fits, or requirements that accept what the base has",
        )
    return ResolveError(f"the requirements cannot be met: {reason}", mend="relax one of the requirements named above")


def _one_line(lines: Sequence[str]) -> str:
    """All of it without line breaks and drawing: uv's versions wrap and indent differently."""
    stripped = (line.strip(" \t│") for line in lines if not line.startswith("warning:"))
    return " ".join(line for line in stripped if line)


def _reason(text: str) -> str:
    """The chain of causes, without headings and hints."""
    body = text.partition(" hint: ")[0]
    start = body.find("Because ")
    body = body[start:] if start >= 0 else body.removeprefix("error: ")
    return body if len(body) <= _LONGEST_REASON else body[:_LONGEST_REASON] + " ..."


def _last_cause(lines: Sequence[str]) -> str:
    """The place and the innermost cause of a network failure."""
    causes = [found[1] for line in lines if (found := re.match(r"\s*(?:cause:|Caused by:)\s*(.+)", line))]
    if not causes:
        return _reason(_one_line(lines))
    return causes[0] if len(causes) == 1 else f"{causes[0]}: {causes[-1]}"
