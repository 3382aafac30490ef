"""Reading a streamed answer as it arrives: its events, when they came, and whether it ended as it must."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from .outcome import Failure, FailureKind, Outcome

_OK, _TOO_MANY = 200, 429
_ENDED_BADLY = ("error", "abort")
_MOST_SAID = 500
"""Bytes of an error's body that are kept."""


class Answer:
    """One answer, fed with its head and its pieces. Costs one `json.loads` an event, and holds no clock."""

    def __init__(self) -> None:
        self.status = 0
        self._retry_after = ""
        self._rest = b""
        self._data: list[bytes] = []
        self._times: list[float] = []
        self._texts: list[str] = []
        self._usage: Mapping[str, Any] = {}
        self._finish: str | None = None
        self._done = False
        self._error = ""

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The answer's first lines have come; names of headers are in small letters."""
        self.status = status
        self._retry_after = headers.get(b"retry-after", b"").decode(errors="replace")

    def piece(self, data: bytes, at: float) -> None:
        """A part of the body came at the time `at`. Its borders mean nothing: an event may lie across them."""
        if self.status != _OK:
            self._rest = (self._rest + data)[:_MOST_SAID]
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif self._data and not line.strip():
                self._event(b"\n".join(self._data), at)
                self._data.clear()

    def outcome(self, number: int, arrived: float, started: float, failure: Failure | None) -> Outcome:
        """The measurement; `failure` is what the transfer itself came to, when it did not end well."""
        times = self._times
        return Outcome(
            number,
            arrived,
            started,
            ttft=times[0] - started if times else 0.0,
            itl=tuple(later - earlier for earlier, later in itertools.pairwise(times)),
            latency=times[-1] - started if times else 0.0,
            prompt_tokens=self._usage.get("prompt_tokens"),
            output_tokens=self._usage.get("completion_tokens"),
            texts=sum(map(bool, self._texts)),
            text="".join(self._texts),
            failure=self._failure() if failure is None or self._error else failure,
        )

    def _failure(self) -> Failure | None:
        if self.status != _OK:
            said = self._rest.decode(errors="replace").strip()
            again = f" (Retry-After: {self._retry_after})" if self._retry_after else ""
            kind: FailureKind = "overloaded" if self.status == _TOO_MANY else "status"
            return Failure(kind, f"{self.status}{again}: {said}")
        if self._error:
            return Failure("broken", self._error)
        if self._finish is None or not self._done:
            missing = "[DONE]" if self._finish is not None else "a finish reason"
            return Failure("broken", f"the stream ended after {len(self._times)} events without {missing}")
        if self._finish in _ENDED_BADLY:
            return Failure("broken", f"the stream ended with the finish reason {self._finish!r}")
        return None

    def _event(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        try:
            self._take(json.loads(data), at)
        except (ValueError, TypeError, AttributeError, LookupError):
            self._error = self._error or f"the stream holds an event of another form: {data[:_MOST_SAID]!r}"

    def _take(self, value: Any, at: float) -> None:
        if error := value.get("error"):
            self._error = self._error or f"the stream said an error: {json.dumps(error)[:_MOST_SAID]}"
            return
        choices = value.get("choices")
        piece = choices[0] if choices else value if "text" in value else None
        if piece is not None:
            delta = piece.get("delta")
            text = piece.get("text") if delta is None else delta.get("content")
            self._times.append(at)
            self._texts.append(text or "")
            self._finish = piece.get("finish_reason") or self._finish
        self._usage = value.get("usage") or self._usage
