"""Uploads to `hf://`: model repositories of a Hugging Face hub, through the hub's own library."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..environ import HF_ENDPOINT
from ..errors import OutputError
from ..weights.hub import HubSource
from ..weights.identity import OnBytes
from ..weights.source import SourceFile
from .plan import LocalFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

LARGE = 10 << 20
"""Bytes from which a file is sent by itself before the commit, so that progress can be told; the hub stores such files
apart from git in any case."""

_MAIN = "main"
_LOG_IN = "set HF_TOKEN to a token that may write there, or log in with `hf auth login`"


class HubDestination:
    """A branch of a model repository, or a folder within; made when it does not exist.

    Files are sent first and become visible together, in one commit. Those that an interrupted upload sent are not sent
    again: the hub knows them by their sha256.
    """

    def __init__(self, address: str, revision: str, *, private: bool, message: str) -> None:
        """`address` is `OWNER/NAME[/FOLDER]`; an empty `revision` is main. Raises LoadError."""
        self._uri = HubSource(address.rstrip("/"), revision).uri
        owner, name, *folders = self._uri.removeprefix("hf://").split("/")
        self._repository = f"{owner}/{name}"
        self._folder = "".join(f"{one}/" for one in folders)
        self._revision = revision or _MAIN
        self._private = private
        self._message = message or "Upload weights with packager"

    @property
    def uri(self) -> str:
        return self._uri

    def listing(self, files: Sequence[LocalFile]) -> tuple[SourceFile, ...]:
        from huggingface_hub import RepoFile, errors

        api, named = _api(), {file.path: file for file in files}
        with self._errors():
            commit = self._commit(api)
            if commit is None:
                return ()
            tree = api.list_repo_tree(self._repository, self._folder[:-1] or None, recursive=True, revision=commit)
            try:
                found = [one for one in tree if isinstance(one, RepoFile)]
            except errors.EntryNotFoundError:
                return ()
        return tuple(self._known(one, named) for one in found)

    def send(self, files: Sequence[LocalFile], on_bytes: OnBytes | None) -> str:
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # ours is shown
        api, name, branch = _api(), self._repository, self._revision
        with self._errors():
            api.create_repo(name, private=self._private or None, exist_ok=True)
            if branch != _MAIN:
                api.create_branch(name, branch=branch, exist_ok=True)
            if not files:
                return str(api.model_info(name, revision=branch).sha)
            adds = [CommitOperationAdd(f"{self._folder}{file.path}", str(file.local)) for file in files]
            for file, add in zip(files, adds, strict=True):
                if file.size >= LARGE:
                    if on_bytes is not None:
                        on_bytes(file.path, 0, file.size)
                    api.preupload_lfs_files(name, [add], revision=branch, free_memory=False)
                    if on_bytes is not None:
                        on_bytes(file.path, file.size, file.size)
            done = api.create_commit(name, adds, commit_message=self._message, revision=branch)
        return str(done.oid)

    def _commit(self, api: "HfApi") -> str | None:
        """The branch's commit, that of main where the branch is still to be made, None where the repository is."""
        from huggingface_hub import errors

        try:
            try:
                info = api.model_info(self._repository, revision=self._revision)
            except errors.RevisionNotFoundError:
                info = api.model_info(self._repository)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            return None
        if self._private and not info.private:
            mend = "make it private on the hub first, or leave out --private"
            raise OutputError("the repository exists and is public", where=self.uri, mend=mend)
        return str(info.sha)

    def _known(self, there: "RepoFile", named: dict[str, LocalFile]) -> SourceFile:
        """A listed file; of one in git only its blob's id is known, which the local file may have too."""
        path = there.path.removeprefix(self._folder)
        sha256 = there.lfs.sha256 if there.lfs else None
        file = named.get(path)
        if sha256 is None and file is not None and file.size == there.size and _blob(file) == there.blob_id:
            sha256 = file.sha256
        return SourceFile(path, there.size, sha256)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The border to huggingface_hub. Its messages are left out: they may repeat what was sent."""
        from huggingface_hub import errors
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # under this name in all its versions

        where = self.uri
        try:
            yield
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                what = "the hub does not let this token write here"
                if "authorization" not in error.response.request.headers:
                    what = "the hub lets nobody write without a token, and none was sent"
                raise OutputError(what, where=where, mend=_LOG_IN) from error
            mend = "run it again: what was sent is not sent again"
            raise OutputError(f"the hub refused with status {status}", where=where, mend=mend) from error
        except errors.OfflineModeIsEnabled as error:
            raise OutputError("HF_HUB_OFFLINE forbids to ask the hub", where=where, mend="unset it") from error
        except (httpx.HTTPError, RuntimeError) as error:
            mend = "run it again: what was sent is not sent again"
            what = f"the transfer to the hub broke off: {type(error.__cause__ or error).__name__}"
            raise OutputError(what, where=where, mend=mend) from error
        except ValueError as error:
            what = f"the hub's library refused: {str(error).partition(chr(10))[0]}"
            raise OutputError(what, where=where, mend="check the files, and HF_ENDPOINT") from error


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(HF_ENDPOINT.get().rstrip("/") or None, library_name="packager")


def _blob(file: LocalFile) -> str:
    """What git calls the file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    hasher = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    hasher.update(file.local.read_bytes())
    return hasher.hexdigest()
