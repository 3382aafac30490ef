"""`hf://`: model repositories of a Hugging Face hub.

The hub's own library lists them and pins what was asked to a commit, on the host. The bytes come through our own ranged
reads, on the host and in the container, where that library is not: hf-xet cannot resume.
"""

import os
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ..environ import (
    HF_ENDPOINT,
    HF_HOME,
    HF_HUB_DISABLE_IMPLICIT_TOKEN,
    HF_TOKEN,
    HF_TOKEN_PATH,
    HUGGING_FACE_HUB_TOKEN,
    XDG_CACHE_HOME,
)
from ..errors import LoadError, OfflineError, TransferError
from .http import HttpReader, Place
from .http_answer import refused
from .source import Reader, SourceFile, is_hidden

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile, RepoFolder

HUB = "https://huggingface.co"
"""The hub that is meant where HF_ENDPOINT names none."""

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?(?<!\.git)")
"""An owner's or a repository's name, as the hub's library validates them (utils/_validators.py)."""
_REVISION = re.compile(r"(?!.*\.\.)[^\x00-\x20\x7f~^:?*\[\\]{0,255}")
"""What git accepts in a reference, or nothing."""
_KINDS = ("buckets", "datasets", "kernels", "models", "spaces")
"""With these begins an address of the hub's library that names the kind of repository."""
_TIMEOUT = 30
"""Seconds that the hub may take to tell about a repository."""
_LOG_IN = "set HF_TOKEN, or log in with `hf auth login`"


class HubSource:
    """The files of a model repository, or of a folder within, at one revision.

    `address` is `OWNER/NAME` or `OWNER/NAME/FOLDER`, taken as it stands (no % escapes); `revision` a branch, tag or
    commit, or empty for main. Files and folders whose names begin with a dot are left out, as `file://` does.
    """

    def __init__(self, address: str, revision: str = "") -> None:
        self._repository, self._folder = _parse(address)
        if not _REVISION.fullmatch(revision):
            mend = "write a branch, a tag or a commit of the repository"
            raise LoadError(f"{revision!r} is no revision", where=self.uri, mend=mend)
        self._revision = revision

    @property
    def uri(self) -> str:
        return "hf://" + "/".join(filter(None, (self._repository, self._folder)))

    @property
    def revision(self) -> str:
        """What was asked; after `inventory()` the commit that it means."""
        return self._revision

    def inventory(self) -> tuple[SourceFile, ...]:
        """Every file, with the sha256 that the hub knows of those in its large file storage; pins the revision.

        Needs huggingface_hub. Raises LoadError, or TransferError where trying again may help.
        """
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # under this name in all its versions

        endpoint, token = _endpoint(), _token()
        try:
            commit, files = self._ask(HfApi(endpoint, token=token or False, library_name="packager"))
        except errors.HfHubHTTPError as error:
            raise self._refusal(error.response.status_code, error.response.headers, self.uri) from error
        except errors.OfflineModeIsEnabled as error:
            raise OfflineError("HF_HUB_OFFLINE forbids to ask the hub", where=self.uri, mend="unset it") from error
        except httpx.HTTPError as error:
            what = f"the hub at {endpoint} cannot be reached: {error or type(error).__name__}"
            mend = "try again; HF_ENDPOINT names another hub, PACKAGER_OFFLINE=1 asks none"
            raise TransferError(what, where=self.uri, mend=mend) from error
        except (KeyError, TypeError, ValueError) as error:
            what = f"{endpoint} does not answer as a hub does: {error}"
            raise LoadError(what, where=self.uri, mend="correct HF_ENDPOINT") from error
        self._revision = commit
        return files

    def _ask(self, api: "HfApi") -> tuple[str, tuple[SourceFile, ...]]:
        """The commit, and what is in it. Raises what the library does, and ValueError for what no hub answers."""
        info = api.model_info(self._repository, revision=self._revision or None, timeout=_TIMEOUT)
        commit = str(info.sha)
        if not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError(f"{commit!r} is no commit")
        if info.gated:  # anybody may list it: better refused now than at the first byte
            api.auth_check(self._repository)
        tree = api.list_repo_tree(self._repository, self._folder or None, recursive=True, revision=commit)
        return commit, self._files(tree)

    def connect(self) -> Reader:
        return HttpReader(self._locate, refuse=self._refusal)

    def _locate(self, path: str) -> Place:
        """Where the hub has the file; it sends us on to storage elsewhere, with an address that expires."""
        token, revision = _token(), quote(self._revision or "main", safe="")
        within = quote("/".join(filter(None, (self._folder, path))))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Place(f"{_endpoint()}/{self._repository}/resolve/{revision}/{within}", headers)

    def _files(self, tree: Iterable["RepoFile | RepoFolder"]) -> tuple[SourceFile, ...]:
        from huggingface_hub import RepoFile

        start, found = f"{self._folder}/" if self._folder else "", []
        for file in tree:
            if not isinstance(file, RepoFile):
                continue
            path, sha256 = file.path.removeprefix(start), file.lfs.sha256 if file.lfs else None
            if not file.path.startswith(start) or type(file.size) is not int or file.size < 0:
                raise ValueError(f"it lists {file.path!r} with {file.size!r} bytes")
            if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
                raise ValueError(f"{sha256!r} is no sha256")
            if not is_hidden(path):
                found.append(SourceFile(path, file.size, sha256))
        return tuple(sorted(found, key=lambda file: file.path))

    def _refusal(self, status: int, headers: Mapping[str, str], where: str) -> LoadError:
        """What a hub's answer means; `headers` by name in lower case, or however they are written.

        The hub's own words are left out: they may repeat what we sent. Its codes are those that huggingface_hub knows
        (utils/_http.py).
        """
        signed_in = bool(_token())
        who, log_in = "no token was sent", _LOG_IN
        if signed_in:
            who, log_in = "the token has no access", "use a token that has access"
        match headers.get("x-error-code", ""):
            case "GatedRepo":
                what = f"the repository is gated, and {who}"
                mend = f"accept its licence at {_endpoint()}/{self._repository}, then {log_in}"
            case "RepoNotFound":
                what, mend = (
                    f"the hub has no such repository, or it is private and {who}",
                    f"correct OWNER/NAME, or {log_in}",
                )
            case "RevisionNotFound":
                what, mend = "the repository has no such revision", "write a branch, a tag or a commit of it"
            case "EntryNotFound":
                what = "the repository has no such file or folder at this revision"
                mend = "correct the folder in the address; `weights.include` chooses single files"
            case _ if headers.get("x-error-message") == "Access to this resource is disabled.":
                what, mend = "the hub has disabled the repository", "choose another source"
            case _ if status == HTTPStatus.UNAUTHORIZED:
                what = "the hub does not accept the token" if signed_in else "the hub wants to know who asks"
                mend = _LOG_IN
            case _:
                return refused(status, headers, where)
        return LoadError(what, where=where, mend=mend)


def _parse(address: str) -> tuple[str, str]:
    """The repository and the folder within. Raises LoadError."""
    where = f"hf://{address}"
    owner, _, rest = address.partition("/")
    name, slash, folder = rest.partition("/")
    mend = "write hf://OWNER/NAME, or hf://OWNER/NAME/FOLDER"
    if "@" in owner + name:
        shown = "" if "@" in owner else where  # what stands before an @ may be a secret
        raise LoadError("a revision stands in the address", where=shown, mend="write it as `weights.revision`")
    if owner in _KINDS:
        raise LoadError(f"the address begins with {owner}/", where=where, mend=f"{mend}: a model's repository")
    if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name):
        raise LoadError("this is no repository's name", where=where, mend=mend)
    parts = folder.split("/") if slash else []
    if not all(part.isprintable() and part not in ("", ".", "..") for part in parts):
        raise LoadError(f"{folder!r} is no folder of a repository", where=where, mend=f"{mend}, without a / at its end")
    return f"{owner}/{name}", folder


def _endpoint() -> str:
    """The hub's address, without a slash at its end. Raises LoadError."""
    text = HF_ENDPOINT.get().rstrip("/") or HUB
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        mend = "write https://HOST, without user and password; a token goes into HF_TOKEN"
        raise LoadError("HF_ENDPOINT is no hub's address", where=HF_ENDPOINT.name, mend=mend)
    return text


def _token() -> str:
    """What proves to the hub who asks, or an empty string: HF_TOKEN or its older name, else what `hf auth login` wrote.

    In the order of huggingface_hub (utils/_auth.py, constants.py), less what needs it to be there: keyless sign-in
    of CI services, and renewing a login. Raises LoadError.
    """
    if HF_HUB_DISABLE_IMPLICIT_TOKEN.get().upper() in ("1", "ON", "YES", "TRUE"):
        return ""
    variable = HF_TOKEN if HF_TOKEN.get() else HUGGING_FACE_HUB_TOKEN
    origin, token = variable.name, variable.get().strip()
    if not token:
        home = HF_HOME.get() or f"{XDG_CACHE_HOME.get() or '~/.cache'}/huggingface"
        origin = os.path.expandvars(HF_TOKEN_PATH.get() or f"{home}/token")
        try:
            token = Path(origin).expanduser().read_text("utf-8").strip()
        except (FileNotFoundError, NotADirectoryError, RuntimeError):  # or there is no home
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError("the token of the hub cannot be read", where=origin, mend="run `hf auth login`") from error
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise LoadError("this is no token of a hub", where=origin, mend=_LOG_IN)  # and is not shown
    return token
