"""Loads that can be killed: a process that imported everything once, and forks one load at a time.

    with Victim(files, url, store) as victim:
        pid = victim.begin()
        os.kill(pid, signal.SIGKILL)
        victim.end()            # the wait status of the load

Run as a program it reads `go`, forks and writes the pid; then `wait`, and writes the wait status.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from packager.manifest import WeightsFile
from packager.store import Store

ROOT = Path(__file__).resolve().parents[2]


class Victim:
    """Loads of `files` from the folder at `url` into `store`."""

    def __init__(self, files: Sequence[WeightsFile], url: str, store: Path) -> None:
        told = json.dumps({"files": [asdict(file) for file in files], "url": url, "store": str(store)})
        self._process = subprocess.Popen(
            [sys.executable, __file__, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )

    def begin(self) -> int:
        """Start a load; gives its pid."""
        assert self._process.stdin is not None
        return self._say("go")

    def end(self) -> int:
        """Wait for the load; gives its wait status."""
        return self._say("wait")

    def _say(self, word: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main(told: str) -> None:
    from packager.weights.fetch import FetchSettings, Wanted, fetch_files
    from packager.weights.https import HttpsSource

    value = json.loads(told)
    source = HttpsSource(value["url"])
    wanted = [Wanted(WeightsFile(**file), source) for file in value["files"]]
    while sys.stdin.readline():
        pid = os.fork()
        if not pid:
            try:
                fetch_files(wanted, Store(Path(value["store"])), settings=FetchSettings(pause=0.01, longest=0.1))
            except BaseException as error:  # noqa: BLE001 - a child must end here, and say why
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        sys.stdin.readline()  # until then the pid is nobody else's: killing it is safe
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
