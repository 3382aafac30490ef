"""Resolve requirements to exact wheels for an image, or to hashed requirements for everywhere else.

uv resolves; nothing of where it found a file is kept. Formats: pylock.toml
(PEP 751, https://packaging.python.org/en/latest/specifications/pylock-toml/) in, requirements with hashes out.
"""

import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..command import Completed, Runner, run_command
from ..digest import hash_file
from ..errors import ResolveError
from ..facts import BaseFacts
from .explain import explain
from .index import Clients, configured_clients
from .measure import Candidate, local_path, measure
from .tags import best_platform, best_wheel, describe, image_tags, offered_platforms, uv_platform
from .wheel import Wheel

__all__ = ["Wheel", "resolve_image", "resolve_universal"]


@dataclass(frozen=True, slots=True)
class _Asked:
    requirements: Sequence[str]
    constraints: Sequence[str] = ()
    overrides: Sequence[str] = ()


def resolve_image(
    requirements: Sequence[str],
    facts: BaseFacts,
    *,
    constraints: Sequence[str] = (),
    overrides: Sequence[str] = (),
    run: Runner = run_command,
) -> tuple[Wheel, ...]:
    """The closure of `requirements` for the image's interpreter and platform, sorted by name.

    One wheel per distribution, the one pip would install there. What the base has installed is taken
    as it is: it satisfies requirements at exactly its version, and neither it nor what only it needs is
    in the result. Raises ResolveError when there is no answer: unknown names, conflicts (also with the
    base), no wheel for the platform, an index out of reach.
    """
    base = _versions(facts.installed)
    # `==2.8` would also take an index's `2.8+cpu`
    asked = _Asked(requirements, [*constraints, *(f"{name}==={version}" for name, version in base.items())], overrides)
    clients = configured_clients(run)
    with tempfile.TemporaryDirectory(prefix="packager-resolve-") as name:
        folder = Path(name)
        _write_stand_ins(folder / "base", facts, base)
        options = ["--python-version", facts.python, "--python-platform", uv_platform(facts)]
        options += ["--find-links", str(folder / "base"), *clients.uv_options]
        packages = _compile(folder, asked, options, clients, run)
        if isinstance(packages, Completed):
            raise explain(packages.stderr, describe(facts), base)
        return measure(_choose(packages, facts, base), facts, folder=folder, run=run, pip_env=clients.pip_env)


def resolve_universal(
    requirements: Sequence[str],
    *,
    python: str,
    constraints: Sequence[str] = (),
    overrides: Sequence[str] = (),
    run: Runner = run_command,
) -> str:
    """`requirements.txt` for every platform and every Python from `python` (`3.11`) on.

    Versions with environment markers and the sha256 of every wheel of each; sorted, without hosts or
    comments, the same bytes for the same answer. `constraints` and `overrides` as for the image.
    Raises ResolveError as `resolve_image` does.
    """
    clients = configured_clients(run)
    with tempfile.TemporaryDirectory(prefix="packager-resolve-") as name:
        # Not `--generate-hashes`: for a folder of wheels that gives the hash of one wheel, whatever its platform.
        options = ["--universal", "--python-version", python, *clients.uv_options]
        packages = _compile(Path(name), _Asked(requirements, constraints, overrides), options, clients, run)
        if isinstance(packages, Completed):
            raise explain(packages.stderr, f"CPython {python} and newer", {})
        # Without a wheel for the platforms of its marker (ppc64le, or `never`) nothing could be installed there.
        named = [package for package in packages if package.get("wheels")]
        entries = sorted((package["name"], _entry(package, python, Path(name))) for package in named)
    return "".join(entry for _, entry in entries)


def _compile(
    folder: Path, asked: _Asked, options: Sequence[str], clients: Clients, run: Runner
) -> Sequence[Mapping[str, Any]] | Completed:
    """The packages of the lock that uv makes in `folder`, or how uv failed."""
    from uv import find_uv_bin  # looks for the program when imported; only resolving needs it

    output = folder / "pylock.image.toml"
    argv = [find_uv_bin(), "pip", "compile", "--format", "pylock.toml", "--output-file", str(output)]
    argv += ["--quiet", "--no-progress", "--color", "never", "--only-binary", ":all:"]
    argv += ["--no-python-downloads", "--python", sys.executable, *options]
    for flag, lines in (("--constraints", asked.constraints), ("--overrides", asked.overrides)):
        if lines:
            argv += [flag, str(_write_requirements(folder / f"{flag[2:]}.txt", lines))]
    argv.append(str(_write_requirements(folder / "requirements.in", asked.requirements)))
    # A folder of our own keeps a pyproject.toml or uv.toml where the user stands out of the answer.
    done = run(argv, env=clients.uv_env, cwd=folder)
    if done.returncode != 0:
        return done
    packages: Sequence[Mapping[str, Any]] = tomllib.loads(output.read_text(encoding="utf-8")).get("packages", [])
    return packages


def _write_requirements(path: Path, lines: Sequence[str]) -> Path:
    """Write one requirement a line; refuses what is not one (options, files, URLs)."""
    for line in lines:
        try:
            url = Requirement(line).url
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            raise ResolveError(
                f"not a requirement: {reason}", where=line, mend="write a name and versions, as in `torch>=2.7,<3`"
            ) from error
        if url or "\n" in line or "\r" in line:
            raise ResolveError(
                "a requirement must be a name and versions on one line: a lock holds no addresses",
                where=line,
                mend="put the wheel in a folder that PIP_FIND_LINKS names and require it by name",
            )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _write_stand_ins(folder: Path, facts: BaseFacts, base: Mapping[str, Version]) -> None:
    """A wheel without content or dependencies for each distribution of the base.

    So uv can choose versions that no index has (vendors' builds) and does not follow dependencies
    that the base has settled its own way; its explanation of a conflict names the version.
    The best tag and a build number that no real file has: preferred over an index's file of that version.
    """
    folder.mkdir()
    interpreter = "cp" + facts.python_minor.replace(".", "")
    tag = f"{interpreter}-{interpreter}-{best_platform(facts)}"
    for name, version in base.items():
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(folder / f"{stem}-999999999-{tag}.whl", "w") as archive:
            info = f"{stem}.dist-info"
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            archive.writestr(f"{info}/RECORD", "")


def _versions(installed: Mapping[str, str]) -> dict[str, Version]:
    """What the base has installed, sorted, without versions that are none by PEP 440 (old distributors' own)."""
    versions = {}
    for name in sorted(installed):
        with suppress(InvalidVersion):
            versions[name] = Version(installed[name])
    return versions


def _choose(packages: Sequence[Mapping[str, Any]], facts: BaseFacts, base: Mapping[str, Version]) -> list[Candidate]:
    tags = image_tags(facts)
    wanted = {canonicalize_name(package["name"]): package for package in packages}
    for name in sorted(wanted.keys() & (facts.installed.keys() - base.keys())):
        raise ResolveError(
            f"the base already has {name} {facts.installed[name]}, which is no Python version that can be compared",
            where=name,
            mend=f"choose a base without {name}",
        )
    return [_candidate(wanted[name], tags, facts) for name in sorted(wanted.keys() - base.keys())]


def _candidate(package: Mapping[str, Any], tags: dict[Tag, int], facts: BaseFacts) -> Candidate:
    name, version = canonicalize_name(package["name"]), str(package.get("version", ""))
    wheels = {_file_name(wheel): wheel for wheel in package.get("wheels", [])}
    file = best_wheel(wheels, tags)
    if file is None:
        offered = ", ".join(offered_platforms(list(wheels))) or "none"
        raise ResolveError(
            f"{name} {version} has no wheel for {describe(facts)}; it has wheels for: {offered}",
            where=name,
            mend="pin a version that has one, or choose a base that one of these fits",
        )
    wheel = wheels[file]
    return Candidate(
        name=name,
        version=version,
        file=file,
        location=_location(wheel),
        size=wheel.get("size"),
        sha256=wheel.get("hashes", {}).get("sha256"),
    )


def _file_name(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("name") or unquote(urlsplit(_location(wheel)).path).rpartition("/")[2])


def _location(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("url") or wheel.get("path") or "")


def _entry(package: Mapping[str, Any], python: str, folder: Path) -> str:
    """One entry of a hashed requirements file."""
    name = canonicalize_name(package["name"])
    hashes = {_sha256(wheel, folder) for wheel in package["wheels"]}
    if "" in hashes or "version" not in package:
        raise ResolveError(
            f"the package index gives no sha256 for the wheels of {name}",
            where=name,
            mend="use an index that publishes sha256 for its files",
        )
    # What holds for all entries goes without saying; more than this one form uv does not add.
    floor = f"python_full_version >= '{python}'"
    marker = str(package.get("marker", ""))
    if marker == floor:
        marker = ""
    elif marker.startswith(f"{floor} and ") and " or " not in marker:
        marker = marker.removeprefix(f"{floor} and ")
    requirement = f"{name}=={package['version']}" + (f" ; {marker}" if marker else "")
    return " \\\n".join([requirement, *(f"    --hash=sha256:{digest}" for digest in sorted(hashes))]) + "\n"


def _sha256(wheel: Mapping[str, Any], folder: Path) -> str:
    """What the lock says, or the file does: old versions of uv do not hash files of a folder. Empty when unknown."""
    if said := wheel.get("hashes", {}).get("sha256"):
        return str(said)
    path = local_path(_location(wheel), folder)
    return hash_file(path)[0] if path is not None and path.is_file() else ""
