"""Judge maintainer scripts without running them.

Three steps. What debhelper generated is taken out, where its kind is known to do nothing an image needs
(or something we can read out of it). If only trivial shell is left, the script is harmless. Else the rest
must be on the reviewed list, `reviewed.json`, by package, script and hash; the list says why it is harmless
and what we do instead. `prerm`, `postrm` and `config` never run on a fresh installation and need no review;
triggers end in a `postinst`, which is judged here.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..digest import sha256_hex
from ..errors import Problem
from .actions import Action, Alternative, Copy, Folder, Link, Write
from .resolve import DebianPackage

JUDGED = ("preinst", "postinst")

TRIPLETS: Mapping[str, str] = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""Debian's architecture and the folder its libraries lie in."""

_BLOCK = re.compile(
    r"^[ \t]*# Automatically added by (?P<kind>\w+)[^\n]*\n(?P<body>.*?)^[ \t]*# End automatically added section[^\n]*\n?",
    re.DOTALL | re.MULTILINE,
)

# What debhelper's generated blocks do, and why an image does without. A kind that is not here stays in the
# script, which is then refused unless a person reviewed it whole (dh_installsysusers and dh_ucf, for instance,
# make users and configuration files).
GENERATED: Mapping[str, str] = {
    "dh_apparmor": "profiles are loaded into the host's kernel",
    "dh_icons": "icon caches of a desktop",
    "dh_installalternatives": "read out of the block and done by us",
    "dh_installdeb": "moves or removes configuration files of older versions; nothing is upgraded here",
    "dh_installdebconf": "questions to an administrator",
    "dh_installgsettings": "schema caches of a desktop",
    "dh_installinfo": "info pages are left out",
    "dh_installinit": "no init runs in a container",
    "dh_installmenu": "menus of a desktop",
    "dh_installmime": "mime caches of a desktop",
    "dh_installmodules": "kernel modules are the host's",
    "dh_installsystemd": "no systemd runs in a container",
    "dh_installsystemduser": "no systemd runs in a container",
    "dh_installtmpfiles": "systemd's folders under /run, made again at each boot",
    "dh_installudev": "devices are the host's",
    "dh_makeshlibs": "ldconfig; we write ld.so.cache",
    "dh_pypy3": "byte code is not shipped",
    "dh_python3": "byte code is not shipped",
    "dh_systemd_enable": "no systemd runs in a container",
    "dh_systemd_start": "no systemd runs in a container",
    "dh_usrlocal": "empty folders under /usr/local for an administrator",
}

_TRIVIAL = re.compile(r"#.*|set [-+][eux]+|exit 0|:|true|;;|esac|case \"\$1\" in|[a-z|*-]+\)(\s*;;)?|")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do in place of a package's scripts, and the problems that forbid the package."""

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Review:
    """One entry of the reviewed list: scripts of these hashes, why they are harmless, what we do instead."""

    package: str
    script: str
    sha256: tuple[str, ...]
    why: str
    instead: tuple[Mapping[str, Any], ...]


def judge_scripts(package: DebianPackage, control: Mapping[str, bytes], architecture: str) -> Verdict:
    """Judge the scripts among the control files of `package` in an image for `architecture`."""
    actions: list[Action] = []
    problems: list[Problem] = []
    for script in JUDGED:
        if script not in control:
            continue
        rest, generated = _strip_generated(control[script].decode("latin-1"))
        actions += generated
        if all(_TRIVIAL.fullmatch(line.strip()) for line in rest.splitlines()):
            continue
        digest = script_hash(rest, package, architecture)
        review = reviews().get((package.name, script, digest))
        if review is None:
            problems.append(_refusal(package, script, digest))
        else:
            actions += (_action(spec, architecture) for spec in review.instead)
    return Verdict(tuple(actions), tuple(problems))


def script_hash(rest: str, package: DebianPackage, architecture: str) -> str:
    """Hash what is left of a script, as it is reviewed.

    Blank space at line ends, the package's own version and the architecture's names do not count, so that a
    security update does not need a new review.
    """
    text = rest.replace(package.version, "@VERSION@").replace(TRIPLETS.get(architecture, "@TRIPLET@"), "@TRIPLET@")
    text = re.sub(rf":{re.escape(architecture)}\b", ":@ARCHITECTURE@", text)
    lines = (line.rstrip() for line in text.splitlines())
    return sha256_hex("\n".join(line for line in lines if line).encode("latin-1"))


@cache
def reviews() -> Mapping[tuple[str, str, str], Review]:
    """The reviewed list by package, script and hash."""
    listed = json.loads(files(__package__).joinpath("reviewed.json").read_bytes())
    every = (
        Review(**{**entry, "sha256": tuple(entry["sha256"]), "instead": tuple(entry["instead"])}) for entry in listed
    )
    return {(review.package, review.script, digest): review for review in every for digest in review.sha256}


def _refusal(package: DebianPackage, script: str, digest: str) -> Problem:
    return Problem(
        f"package {package.name} {package.version} needs its {script} script, "
        f"which nobody has reviewed (sha256 {digest}), and packager runs no maintainer scripts",
        package.file,
        "use a base image from a registry that has the package installed (`image.base`), leave the package out, "
        "or report the script so that it is reviewed",
    )


def _strip_generated(text: str) -> tuple[str, list[Action]]:
    actions: list[Action] = []

    def judge(block: re.Match[str]) -> str:
        if block["kind"] not in GENERATED:
            return block[0]
        if block["kind"] == "dh_installalternatives":
            actions.extend(_alternatives(block["body"]))
        return ""

    return _BLOCK.sub(judge, text), actions


def _alternatives(body: str) -> Iterator[Alternative]:
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] != ["update-alternatives", "--install"]:
            continue
        link, name, path, priority, *rest = words[2:]
        slaves = tuple((rest[at + 1], rest[at + 2], rest[at + 3]) for at, word in enumerate(rest) if word == "--slave")
        yield Alternative(link, name, path, int(priority), slaves)


def _action(spec: Mapping[str, Any], architecture: str) -> Action:
    values = {key: _place(value, architecture) for key, value in spec.items()}
    match values.pop("do"):
        case "alternative":
            slaves = tuple((link, name, path) for link, name, path in values.pop("slaves", ()))
            return Alternative(**values, slaves=slaves)
        case "write":
            return Write(**values)
        case "copy":
            return Copy(**values)
        case "folder":
            return Folder(values["path"], int(values.get("mode", "755"), 8))
        case "link":
            return Link(**values)
        case unknown:
            raise ValueError(f"reviewed.json knows no action {unknown!r}")


def _place(value: Any, architecture: str) -> Any:
    if isinstance(value, str):
        return value.replace("@TRIPLET@", TRIPLETS.get(architecture, architecture))
    if isinstance(value, Sequence):
        return [_place(item, architecture) for item in value]
    return value
