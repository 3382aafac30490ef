"""Every error that packager raises on purpose.

An error has fields, not prose: *what* is wrong, *where*, and *how to mend it*.
Only `packager.cli` turns them into text. Foreign errors are translated at one
border per library, with `from`.

    PackagerError
    ├── SpecError          the spec is wrong (may hold many problems)
    ├── LockError          the lock cannot be made, read or trusted
    │   └── DriftError     the lock no longer answers the spec
    ├── ResolveError       a package index or Debian mirror has no answer
    ├── FetchError         locked bytes cannot be obtained
    ├── IntegrityError     bytes are not the bytes that were locked
    ├── PackageError       a package folder cannot be written or read
    ├── ConvertError       a step of a conversion failed
    ├── ImageError         an image cannot be planned, written or read
    ├── RegistryError      a container registry refused or failed
    ├── DockerError        a Docker Engine refused or failed
    ├── BusyError          another packager process holds the same output
    ├── OutputError        the result cannot be written
    ├── SettingError       an environment variable has a value that says nothing
    ├── LoadError          weights or engine cannot be loaded
    │   ├── TransferError      a transfer of weights broke off
    │   │   └── RangeError         the place gives whole files only
    │   └── MismatchError      a compiled engine was built for another machine
    ├── EngineError        an engine failed while it served
    │   └── DeadlineError      a request took longer than it may
    ├── RequestError       a request asks what the model does not do
    │   └── ContextLengthError  the prompt is longer than the context
    └── UnavailableError   no request is taken now: loading, draining, dead
        └── OverloadedError     as many run and wait as may
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `where` is a place a person can open: `packager.yaml:3:7`, a path, an image reference.
    `mend` is the next thing to do, or empty when there is nothing to advise.
    """

    what: str
    where: str = ""
    mend: str = ""


class PackagerError(Exception):
    """Base of all errors raised on purpose; `code` is stable and documented."""

    code: ClassVar[str] = "packager"

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, mend),)
        super().__init__(what)

    @classmethod
    def collect(cls, problems: Iterable[Problem]) -> Self:
        """One error that reports every problem at once, in the order given (at least one)."""
        listed = tuple(problems)
        first = listed[0]
        error = cls(first.what, where=first.where, mend=first.mend)
        error.problems = listed
        return error

    def __str__(self) -> str:
        return "\n".join(": ".join(part for part in (p.where, p.what) if part) for p in self.problems)


class SpecError(PackagerError):
    """The spec is wrong. Raised once, with every problem found."""

    code = "spec"


class LockError(PackagerError):
    """The lock cannot be made, read or trusted."""

    code = "lock"


class DriftError(LockError):
    """The lock no longer answers the spec, and re-locking was forbidden (`--locked`)."""

    code = "drift"


class ResolveError(PackagerError):
    """A package index or a Debian mirror has no answer for what the spec asks."""

    code = "resolve"


class FetchError(PackagerError):
    """Locked bytes cannot be obtained (offline, gone from the mirror, refused)."""

    code = "fetch"


class IntegrityError(PackagerError):
    """Bytes are not the bytes that were locked. Nothing was put under its final name."""

    code = "integrity"


class PackageError(PackagerError):
    """A package folder cannot be planned, written or read."""

    code = "package"


class ConvertError(PackagerError):
    """A step of a conversion failed; the error repeats the last that it said."""

    code = "convert"


class ImageError(PackagerError):
    """An image cannot be planned, written or read."""

    code = "image"


class RegistryError(PackagerError):
    """A container registry refused or failed."""

    code = "registry"


class DockerError(PackagerError):
    """A Docker Engine refused or failed."""

    code = "docker"


class BusyError(PackagerError):
    """Another packager process holds the same output."""

    code = "busy"


class OutputError(PackagerError):
    """The result cannot be written where it was asked for."""

    code = "output"


class SettingError(PackagerError):
    """An environment variable has a value that says nothing to packager."""

    code = "setting"


class LoadError(PackagerError):
    """Weights or engine cannot be loaded; the process must not report ready."""

    code = "load"


class TransferError(LoadError):
    """A transfer of weights broke off; the loader tries again, and gives this when it gives up.

    `busy` says that the other side asked for less (429, 503), `retry_after` for how many seconds of rest.
    """

    code = "transfer"

    def __init__(
        self, what: str, *, where: str = "", mend: str = "", busy: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(what, where=where, mend=mend)
        self.busy = busy
        self.retry_after = retry_after


class RangeError(TransferError):
    """The place answers a request for a range with the whole file: it is read in one go, from its beginning."""

    code = "range"


class OfflineError(LoadError):
    """The network is not to be asked, by `PACKAGER_OFFLINE` and the like, and what is wanted is not here."""

    code = "offline"


class MismatchError(LoadError):
    """A compiled engine was built for another GPU or other software than stands here. Nothing was downloaded."""

    code = "mismatch"


class EngineError(PackagerError):
    """An engine failed while it served; the stream it belongs to must not end cleanly."""

    code = "engine"


class DeadlineError(EngineError):
    """A request took longer than the package allows (`serving.*_seconds`)."""

    code = "deadline"


class RequestError(PackagerError):
    """A request asks what the model does not do; `where` is the parameter's name."""

    code = "invalid_request"


class ContextLengthError(RequestError):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"


class UnavailableError(PackagerError):
    """No request is taken now: the model is loading, draining or dead."""

    code = "unavailable"


class OverloadedError(UnavailableError):
    """As many requests run and wait as the package allows; try again after `retry_after` seconds."""

    code = "overloaded"
    retry_after: ClassVar[int] = 1
