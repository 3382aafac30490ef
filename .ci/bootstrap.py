"""Make `.venv` with pinned requirements, on a machine that has Python 3.11 and little else.

    python3 .ci/bootstrap.py core|dev

Standard library only. A fresh Debian or Ubuntu has neither pip nor the venv package's ensurepip,
so pip is looked for in this order: the interpreter's own, ensurepip, Debian's python3-pip-whl
unpacked from apt without root. Which index answers is pip's own configuration.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


def main(kind: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  # the message is for those who run an older one
        sys.exit(f"packager needs Python 3.11 or newer; this is {sys.version.split()[0]}. Set PYTHON=python3.12, say.")
    requirements = ROOT / "requirements" / f"{kind}.txt"
    stamp = VENV / f".{kind}-ready"
    want = hashlib.sha256(requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return
    say(f"installing {kind} requirements into {VENV.name} (once)")
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", "--without-pip", str(VENV))
    with tempfile.TemporaryDirectory() as work:
        pip = find_pip(Path(work))
        install = [*pip, "--disable-pip-version-check", "--python", str(PYTHON), "install", "--quiet"]
        run(*install, "--require-hashes", "--only-binary", ":all:", "-r", str(requirements))
        run(*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(want)


def find_pip(work: Path) -> list[str]:
    """The command that runs some pip (22.3 or newer, which knows --python)."""
    if works(sys.executable, "-m", "pip", "--version"):
        return [sys.executable, "-m", "pip"]
    if works(sys.executable, "-c", "import ensurepip"):
        holder = work / "holder"
        run(sys.executable, "-m", "venv", str(holder))
        return [str(holder / "bin" / "python"), "-m", "pip"]
    return [sys.executable, str(pip_from_apt(work)), *()]


def pip_from_apt(work: Path) -> Path:
    """Debian's pip wheel, which Python can run as it lies, fetched with a private apt state and no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        sys.exit("no pip, no ensurepip and no apt-get here: install pip for this Python, then run make again")
    state = work / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    options = [f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}/cache", "-oAPT::Sandbox::User="]
    run("apt-get", "-qq", *options, "update")
    run("apt-get", "-qq", *options, "download", "python3-pip-whl", cwd=work)
    archive = next(work.glob("python3-pip-whl_*.deb"))
    run("dpkg-deb", "-x", str(archive), str(work / "root"))
    wheel = next((work / "root" / "usr/share/python-wheels").glob("pip-*.whl"))
    return wheel / "pip"


def works(*argv: str) -> bool:
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def run(*argv: str, cwd: Path = ROOT) -> None:
    # A user's PYTHONPATH or pip target must not steer where the tools land.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_TARGET", "PIP_USER")}
    finished = subprocess.run(argv, cwd=cwd, env=env, check=False)
    if finished.returncode:
        sys.exit(f"`{' '.join(argv)}` failed with {finished.returncode}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "core")
