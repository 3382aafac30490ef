"""Uploads to `s3://`, through boto3's transfer manager."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import LoadError
from ..weights.identity import OnBytes
from ..weights.s3 import DIGEST_FIELD, Bucket, s3_errors
from ..weights.source import SourceFile
from .plan import LocalFile

_FILES = 8
"""Files sent at a time; the library has further threads for the parts of large ones."""


class S3Destination:
    """A prefix of a bucket that exists. Each object carries its file's sha256 in its metadata.

    The library sends a checksum with each part, which the store compares before it takes the part; an object appears when
    all its parts are there.
    """

    def __init__(self, address: str) -> None:
        """`address` is `BUCKET/PREFIX`."""
        name, _, prefix = address.partition("/")
        self._bucket = Bucket(name)
        self._folder = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""

    @property
    def uri(self) -> str:
        return self._bucket.where(self._folder).rstrip("/")

    def listing(self, files: Sequence[LocalFile]) -> tuple[SourceFile, ...]:
        wanted = {f"{self._folder}{file.path}": file.size for file in files}
        sizes = dict(self._bucket.keys(self._folder))
        digests = self._bucket.digests(key for key, size in sizes.items() if wanted.get(key) == size)
        return tuple(
            SourceFile(key[len(self._folder) :], size, digests.get(key)) for key, size in sorted(sizes.items())
        )

    def send(self, files: Sequence[LocalFile], on_bytes: OnBytes | None) -> str:
        # Inside out: who interrupts this has the transfers cancelled, then the threads end.
        with ThreadPoolExecutor(_FILES, "packager-upload") as pool, self._transfer() as transfer:
            for _ in pool.map(lambda file: self._send(transfer, file, on_bytes), files):
                pass
        return ""

    def _send(self, transfer: Any, file: LocalFile, on_bytes: OnBytes | None) -> None:
        from boto3.exceptions import S3UploadFailedError

        key, done, lock = f"{self._folder}{file.path}", 0, threading.Lock()

        def count(size: int) -> None:
            nonlocal done
            with lock:
                done += size
                now = done
            if on_bytes is not None:
                on_bytes(file.path, now, file.size)

        more = {"Metadata": {DIGEST_FIELD: file.sha256}}
        with s3_errors(self._bucket.where(key)):
            try:
                transfer.upload_file(str(file.local), self._bucket.name, key, callback=count, extra_args=more)
            except S3UploadFailedError as error:
                raise error.__context__ or error from error  # the library's own error, which the border knows

    def _transfer(self) -> Any:
        try:
            from boto3.s3.transfer import S3Transfer, TransferConfig
        except ImportError as error:
            mend = "pip install 'llm-packager[s3]'"
            raise LoadError("an upload to s3:// needs the library boto3, which is not here", mend=mend) from error
        config = TransferConfig(preferred_transfer_client="classic")  # the other one has settings of its own
        return S3Transfer(client=self._bucket.client(), config=config)
