"""The local files a lock answers for: are they still what was locked?"""

from pathlib import Path

from ..errors import IntegrityError
from ..spec.load import SpecFile
from ..weights.load import file_digest
from ..weights.schemes import open_source
from .lockfile import Lock
from .tools import Tools


def check_sources(lock: Lock, file: SpecFile, tools: Tools) -> None:
    """Raise IntegrityError when a local weights file is there with other bytes than the locked ones.

    A file that is gone is no matter while the store has its bytes: that is what a lock is for.
    """
    if lock.weights is None or not lock.weights.source.startswith("file://"):
        return
    root = Path(open_source(lock.weights.source, folder=file.folder).uri.removeprefix("file://"))
    for locked in lock.weights.files:
        path = root if root.is_file() else root / locked.path
        if not path.exists():
            continue
        found = file_digest(path, tools.store, tools.on_bytes)
        if found != locked.sha256:
            raise IntegrityError(
                f"{locked.path} changed since it was locked: sha256 {found[:12]}, locked {locked.sha256[:12]}",
                where=file.where("weights", "source"),
                mend="run `packager lock` if the change is wanted; else restore the file",
            )
