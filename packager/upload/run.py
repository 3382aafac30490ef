"""Uploads weights: `plan_upload` looks, `run_plan` acts. What is there already is not sent again."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import LoadError, OutputError
from ..store import Store
from ..weights.identity import OnBytes, file_digest
from .collect import collect
from .destination import Destination
from .folder import FolderDestination
from .hub import HubDestination
from .plan import UploadPlan, differences, make_plan
from .s3 import S3Destination

FORMS = "hf://OWNER/NAME[/FOLDER], s3://BUCKET/PREFIX or file:///PATH"
"""The addresses that can be written."""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What only the hub has: a branch (empty: the repository's own), a private repository, the commit's message."""

    revision: str = ""
    private: bool = False
    message: str = ""


def open_destination(address: str, options: UploadOptions, store: Store) -> Destination:
    """The destination at `address`. Nothing is asked yet. Raises OutputError for an address or option it has no use for."""
    scheme, separator, rest = address.partition("://")
    if not separator or not rest.strip("/") or scheme not in ("hf", "s3", "file"):
        raise OutputError(f"{address!r} is no address to upload to", mend=f"use {FORMS}")
    if scheme == "hf":
        try:
            return HubDestination(rest, options.revision, private=options.private, message=options.message)
        except LoadError as error:
            raise OutputError.collect(error.problems) from error
    given = {"--revision": options.revision, "--private": options.private, "--message": options.message}
    unused = [name for name, value in given.items() if value]
    if unused:
        raise OutputError(f"{scheme}:// has no use for {' and '.join(unused)}", where=address, mend="leave it out")
    if scheme == "file":
        return FolderDestination(Path(rest), store)
    if any(part in ("", ".", "..") for part in rest.removesuffix("/").split("/")):
        raise OutputError("a part of the address is empty, `.` or `..`", where=address, mend=f"use {FORMS}")
    return S3Destination(rest)


def plan_upload(what: Path, destination: Destination, store: Store, on_bytes: OnBytes | None = None) -> UploadPlan:
    """What an upload of `what` would send. `store` has a package's weights, and remembers digests. Raises OutputError."""
    files = collect(what, store, on_bytes)
    try:
        return make_plan(destination.uri, files, destination.listing(files))
    except LoadError as error:
        raise OutputError.collect(error.problems) from error


def run_plan(plan: UploadPlan, destination: Destination, store: Store, on_bytes: OnBytes | None = None) -> str:
    """Send what the plan says and compare what is there then; gives the commit, where the scheme has one.

    Raises OutputError; run again, it sends what is still missing.
    """
    try:
        revision = destination.send(plan.send, on_bytes)
        changed = [file for file in plan.send if file_digest(file.local, store) != file.sha256]
        if changed:
            mend = "run it again when nothing writes to it"
            raise OutputError("the file changed while it was uploaded", where=str(changed[0].local), mend=mend)
        problems = differences(plan, destination.listing(plan.files))
    except LoadError as error:
        raise OutputError.collect(error.problems) from error
    if problems:
        raise OutputError.collect(problems)
    return revision
