"""pip as the fetcher: it obeys the user's indexes, mirrors, proxies and credentials."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ..command import Runner
from ..errors import FetchError, IntegrityError
from ..facts import BaseFacts
from .index import PIP, hide_secrets
from .tags import platforms

_NETWORK = re.compile(
    r"connection broken|ConnectionError|Max retries|NewConnection|timed? ?out|ProxyError|Could not fetch"
)
_GONE = re.compile(r"No matching distribution found for ([^\s(]+)")


def pin(name: str, file: str, sha256: str | None) -> str:
    """The line of a requirements file that means the version of the wheel `file` alone, and the file with this sha256.

    `==2.13.0` would also take `2.13.0+cpu`, and prefer it: pip compares hashes only where it knows them, which is not
    in a folder of wheels. `===` compares text, with the version in the file's name: an index may say 1.0 of 1.0.0.
    Raises FetchError for a file of which pip reads no version.
    """
    try:
        version = parse_wheel_filename(file)[1]
    except InvalidWheelFilename as error:
        raise FetchError(
            "pip takes no wheel that is called so", where=file, mend="take another version of it"
        ) from error
    return f"{name}==={version}" + (f" --hash=sha256:{sha256}" if sha256 else "")


def download(pins: Sequence[str], folder: Path, facts: BaseFacts, *, run: Runner, env: Mapping[str, str]) -> None:
    """Have pip put the wheels of `pins` (see `pin`) for the image into `folder`.

    Pins without a hash are taken as they come. Raises FetchError when one cannot be had,
    IntegrityError when its bytes are others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    argv = [*PIP, "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    argv += ["--quiet", "--progress-bar", "off", "--disable-pip-version-check", "--dest", str(folder)]
    argv += ["--implementation", "cp", "--python-version", facts.python]
    argv += ["--abi", "cp" + facts.python_minor.replace(".", "")]
    for platform in platforms(facts):
        argv += ["--platform", platform]
    # pip unpacks nothing here but downloads into its temporary folder: ours, so that bytes can be counted
    done = run([*argv, "--requirement", str(wanted)], env={**env, "TMPDIR": str(folder)})
    if done.returncode != 0:
        raise _failure(done.stderr, pins)


def _failure(stderr: str, pins: Sequence[str]) -> FetchError | IntegrityError:
    text = hide_secrets(stderr).replace("===", "==")
    names = ", ".join(pin.partition(" ")[0] for pin in pins).replace("===", "==")
    if "DO NOT MATCH THE HASHES" in text:
        named = re.search(
            r"^\s*([^\s]+(?:==| from )[^\n]*)", text.partition("DO NOT MATCH THE HASHES")[2], re.MULTILINE
        )
        return IntegrityError(
            "the package index serves other bytes than were locked",
            where=named[1].partition(" ")[0] if named else names,
            mend="run `packager lock` if the change is wanted; else fetch from an index that has the locked files",
        )
    if _NETWORK.search(text):
        return FetchError(
            f"the package index cannot be reached: {_cause(text)}",
            where=names,
            mend="check the network and pip's configuration (`python -m pip config list`)",
        )
    if found := _GONE.search(text):
        return FetchError(
            "no configured package index has this locked wheel",
            where=found[1],
            mend="configure pip with the index it was locked from (PIP_INDEX_URL), or run `packager lock`",
        )
    return FetchError(f"pip failed: {_last_error(text)}", where=names)


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith("ERROR:")]
    return (marked or lines or ["no message"])[-1].removeprefix("ERROR:").strip()


def _cause(text: str) -> str:
    """The system's reason for a broken connection, which pip buries in its warnings about retries."""
    found = re.search(r"\[Errno -?\d+\] ([^'\")\n]+)", text) or re.search(r"connection broken by '([^\n]+)", text)
    return found[1] if found else _last_error(text)
