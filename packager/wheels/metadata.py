"""The text files of a wheel's `.dist-info`: RECORD, WHEEL and entry_points.txt, read and written (pure).

PEP 427 and https://packaging.python.org/en/latest/specifications/binary-distribution-format/,
.../recording-installed-packages/ (PEP 376, 627) and .../entry-points/.
Parsed here and not with the standard library's readers where their answer depends on the Python
that builds: what is written goes into images.
"""

import base64
import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import ImageError, IntegrityError

_REFERENCE = re.compile(r"(?P<module>\w+(?:\.\w+)*)\s*:\s*(?P<attribute>\w+(?:\.\w+)*)\s*(?:\[.*\])?\s*$")
_LONGEST_SHEBANG = 127  # Linux before 5.1 cuts it there

# The text pip writes, so that a tool which compares finds nothing.
_SCRIPT = """\
#!{interpreter}
import sys
from {module} import {name}
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit({attribute}())
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of RECORD: hex sha256 and size in bytes, each None where the row does not say."""

    sha256: str | None
    size: int | None


def check_wheel_version(text: str, where: str) -> None:
    """Raise ImageError unless WHEEL says format 1.x, the only one there is."""
    found = re.search(r"^Wheel-Version:[ \t]*([\d.]+)[ \t]*\r?$", text, re.MULTILINE)
    if found is None or found[1].partition(".")[0] != "1":
        version = found[1] if found else "without a version"
        raise ImageError(f"the wheel has format {version}; 1.x is known", where=where)


def parse_record(text: str, where: str) -> dict[str, Recorded]:
    """RECORD's rows by archive name; what a row does not say in a usable way is None.

    Raises IntegrityError when it is not comma-separated text.
    """
    rows = {}
    try:
        for row in csv.reader(text.splitlines()):
            if row:
                name, digest, size = (*row, "", "")[:3]
                rows[name] = Recorded(_hex(digest), int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None)
    except csv.Error as error:
        raise IntegrityError(f"RECORD cannot be read: {error}", where=where) from error
    return rows


def write_record(rows: Mapping[str, tuple[str, int]], own: str) -> bytes:
    """RECORD for installed files: path relative to site -> (hex sha256, size), sorted; `own` has neither."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for path in sorted([*rows, own], key=str.encode):
        if path == own:
            writer.writerow((path, "", ""))
        else:
            sha256, size = rows[path]
            writer.writerow((path, f"sha256={_base64(sha256)}", size))
    return buffer.getvalue().encode()


def parse_scripts(text: str, where: str) -> dict[str, str]:
    """Script name -> `module:attribute` of the console and GUI entry points.

    Raises ImageError for a name that is no file name or a reference that names no callable.
    """
    scripts = {}
    section = ""
    for line in (raw.strip() for raw in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")) and section in {"console_scripts", "gui_scripts"}:
            name, _, reference = (part.strip() for part in line.partition("="))
            if not re.fullmatch(r"[\w.-][\w. +-]*", name) or name in {".", ".."} or not _REFERENCE.match(reference):
                raise ImageError(f"the entry point `{line}` cannot become a script", where=where)
            scripts[name] = reference
    return scripts


def shebang(interpreter: str) -> bytes:
    """The first line of a script. Raises ImageError when kernels would cut it or split it."""
    line = f"#!{interpreter}\n".encode()
    if len(line) > _LONGEST_SHEBANG or " " in interpreter:
        raise ImageError(
            "the base's interpreter cannot stand in a script's first line: it is too long or has a space",
            where=interpreter,
            mend="use a base with a shorter path to Python",
        )
    return line


def script(reference: str, interpreter: str) -> bytes:
    """The script that calls `module:attribute`; the same text in every image."""
    found = _REFERENCE.match(reference)
    assert found is not None, "parse_scripts checked it"
    attribute = found["attribute"]
    shebang(interpreter)
    return _SCRIPT.format(
        interpreter=interpreter, module=found["module"], name=attribute.partition(".")[0], attribute=attribute
    ).encode()


def only_info(names: Iterable[str], where: str) -> str:
    """The name of the wheel's one `.dist-info` folder."""
    found = sorted({name.partition("/")[0] for name in names if name.partition("/")[0].endswith(".dist-info")})
    if len(found) != 1:
        raise ImageError(f"the wheel has {len(found)} .dist-info folders instead of one", where=where)
    return found[0]


def _hex(digest: str) -> str | None:
    algorithm, _, value = digest.partition("=")
    if algorithm != "sha256":
        return None
    try:
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        return None
    return raw.hex() if len(raw) == 32 else None


def _base64(sha256: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()
