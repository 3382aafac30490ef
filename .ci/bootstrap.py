"""Make `.venv` with pinned requirements, on a machine that has Python 3.11 and little else.

    python3 .ci/bootstrap.py core|dev

Standard library only. A fresh Debian or Ubuntu has neither pip nor the venv package's ensurepip,
so pip is looked for in this order: the interpreter's own, ensurepip, Debian's python3-pip-whl
unpacked from apt without root. Which index answers is pip's own configuration.

Nor has it the OpenMP library that llama.cpp's wheel loads. Where it is missing, Debian's goes to
`.venv/lib/system`, which the Makefile puts on LD_LIBRARY_PATH.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LIBRARIES = VENV / "lib" / "system"
OPENMP, OPENMP_PACKAGE = "libgomp.so.1", "libgomp1"
PIP_RETRY = "Retrying (Retry("  # for each file, five times
PIP_NEWS = ("[notice]", "WARNING: Location 'file:", "WARNING: Running pip as the 'root' user")
"""What pip says that nobody has to act on: of itself, and of a local index that lacks a name the next one has."""


def main(kind: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  # the message is for those who run an older one
        fail(f"packager needs Python 3.11 or newer; this is {sys.version.split()[0]}. Set PYTHON=python3.12, say.")
    requirements = ROOT / "requirements" / f"{kind}.txt"
    stamp = VENV / f".{kind}-ready"
    want = hashlib.sha256(requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    fresh = not is_usable()
    if not fresh and stamp.exists() and stamp.read_text() == want:
        return
    say(f"setting up {VENV.name} with requirements/{requirements.name} (once; a minute or two)")
    if fresh:
        run("the venv cannot be made", sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pip = find_pip(work)
        install = [*pip, "--disable-pip-version-check", "--python", str(PYTHON), "install", "--quiet"]
        reason = "pip failed; if it found no files, check the network and pip's configuration (PIP_INDEX_URL, pip.conf)"
        run(reason, *install, "--require-hashes", "--only-binary", ":all:", "-r", str(requirements))
        run(reason, *install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        if not loads(OPENMP):
            libraries_from_apt(work)
    stamp.write_text(want)


def is_usable() -> bool:
    """Whether `.venv` is here and its Python still runs; a folder that was moved keeps its old place in its scripts."""
    pip = VENV / "bin" / "pip"
    if pip.exists() and str(VENV).encode() not in pip.read_bytes()[:1000]:
        return False
    return PYTHON.exists() and works(str(PYTHON), "-c", "")


def find_pip(work: Path) -> list[str]:
    """The command that runs some pip (22.3 or newer, which knows --python)."""
    if works(sys.executable, "-m", "pip", "--version"):
        return [sys.executable, "-m", "pip"]
    if works(sys.executable, "-c", "import ensurepip"):
        holder = work / "holder"
        run("ensurepip failed", sys.executable, "-m", "venv", str(holder))
        return [str(holder / "bin" / "python"), "-m", "pip"]
    say("  pip from Debian's package python3-pip-whl, unpacked here")
    root = unpack_from_apt(work, "python3-pip-whl")
    wheel = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
    return [sys.executable, str(wheel / "pip")]  # Python can run it as it lies


def libraries_from_apt(work: Path) -> None:
    say(f"  {OPENMP} from Debian's package {OPENMP_PACKAGE}, unpacked here")
    root = unpack_from_apt(work, OPENMP_PACKAGE)
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    # Its link and the file that it names become one file.
    shutil.copyfile(next(root.glob(f"usr/lib/*/{OPENMP}")), LIBRARIES / OPENMP)


def unpack_from_apt(work: Path, package: str) -> Path:
    """The folder of an unpacked Debian package, fetched with a private apt state and no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        fail(
            f"this machine lacks what Debian's {package} has, and has no apt-get to fetch it: install it, run make again"
        )
    reason = f"apt cannot fetch {package}; check the network and that `apt-get update` works, or install it"
    state = work / "apt"
    options = ["-qq", f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}/cache", "-oAPT::Sandbox::User="]
    if not state.exists():
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        run(reason, "apt-get", *options, "update")
    run(reason, "apt-get", *options, "download", package, cwd=work)
    root = work / f"root-{package}"
    run(reason, "dpkg-deb", "-x", str(next(work.glob(f"{package}_*.deb"))), str(root))
    return root


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def works(*argv: str) -> bool:
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def run(reason: str, *argv: str, cwd: Path = ROOT) -> None:
    """Run a command and pass on what it says on standard error; `reason` is said when it fails."""
    # A user's PYTHONPATH or pip target must not steer where the tools land.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_TARGET", "PIP_USER")}
    retries = 0
    with subprocess.Popen(argv, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            retries += PIP_RETRY in line
            if line.strip() and not line.startswith(PIP_NEWS) and not (retries > 1 and PIP_RETRY in line):
                say(f"  {line.rstrip()}")
    if process.returncode:
        fail(reason)


def fail(reason: str) -> NoReturn:
    sys.exit(f"cannot set up {VENV.name}: {reason}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "core")
    except KeyboardInterrupt:
        fail("interrupted")
