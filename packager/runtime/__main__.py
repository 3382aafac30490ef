"""`python -m packager_runtime.runtime serve FOLDER`: the package serves itself, with no packager installed."""

import argparse
import os
import sys
from pathlib import Path

from ..errors import PackagerError
from .serve import serve


def main(arguments: list[str] | None = None) -> int:
    """Run one command; gives the exit status (2 when the package or the address is unusable)."""
    parser = argparse.ArgumentParser(prog="packager_runtime")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="serve a package folder over HTTP until SIGTERM")
    command.add_argument("folder", type=Path, help="the package: the folder with model/manifest.json")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    command.add_argument("--port", type=int, help="port to listen on (default: the package's own; 0: any free one)")
    chosen = parser.parse_args(arguments)
    try:
        return serve(chosen.folder, chosen.host, chosen.port)
    except PackagerError as error:
        mends = [f"\n  {problem.mend}" for problem in error.problems if problem.mend]
        sys.stderr.write(f"error: {error}{''.join(mends)}\n")
        return 2


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a load that was interrupted may still sit in a thread, and the interpreter would
    # wait for it, or take the GIL away from it in the middle of C++.
    os._exit(status)
