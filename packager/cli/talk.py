"""Asking a server for a chat's next turn, over HTTP: what `packager chat` stands on."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx

from ..bench.connection import Origin
from ..errors import EngineError, PackagerError, RequestError, UnavailableError
from ..web import open_client

_CONNECT_SECONDS = 10


@dataclass(slots=True)
class Pace:
    """How fast an answer came. Seconds of the monotonic clock; `tokens` as the server counted them."""

    asked: float = field(default_factory=monotonic)
    first: float = 0.0
    last: float = 0.0
    pieces: int = 0
    tokens: int = 0
    finish: str = ""

    def arrived(self) -> None:
        """A piece of text is here."""
        self.last = monotonic()
        self.first = self.first or self.last
        self.pieces += 1

    def __str__(self) -> str:
        if not self.first:
            return "no text"
        count = self.tokens or self.pieces
        parts = [f"{count} token{'' if count == 1 else 's'}"]
        if count > 1 and self.last > self.first:
            parts.append(f"{(count - 1) / (self.last - self.first):.1f} tokens/s")
        parts.append(f"first after {(self.first - self.asked) * 1000:.0f} ms")
        if self.finish not in ("", "stop"):
            parts.append("ended at its limit" if self.finish == "length" else self.finish)
        return " · ".join(parts)


class Talk:
    """A conversation with the server at `url`. Raises PackagerError; where a server's own words exist, with those."""

    def __init__(self, url: str, key: str, settings: Mapping[str, Any]) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        self._client = open_client(base_url=_address(url), headers=headers, timeout=timeout)
        self._settings = settings

    def model(self) -> str:
        """The name of the first model that the server lists."""
        with _translated(str(self._client.base_url)):
            answer = self._client.get("v1/models")
            _check(answer)
            return str(answer.json()["data"][0]["id"])

    def answer(self, model: str, messages: Sequence[Mapping[str, str]], pace: Pace) -> Generator[str, None, None]:
        """The next turn's text, piece by piece. Closing the iterator ends the request at the server too."""
        body = {"model": model, "messages": list(messages), "stream": True, "stream_options": {"include_usage": True}}
        with (
            _translated(str(self._client.base_url)),
            self._client.stream("POST", "v1/chat/completions", json={**body, **self._settings}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
                _check(answer)
            for event in _events(answer):
                pace.tokens = (event.get("usage") or {}).get("completion_tokens", pace.tokens)
                for choice in event["choices"]:
                    pace.finish = choice["finish_reason"] or pace.finish
                    if text := choice["delta"].get("content"):
                        pace.arrived()
                        yield text

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _address(url: str) -> httpx.URL:
    try:
        Origin.parse(url)
        return httpx.URL(url.rstrip("/") + "/")
    except (httpx.InvalidURL, ValueError) as error:
        what, shown = f"this is no address of a server: {error}", "" if "@" in url else url  # a password may be in it
        raise RequestError(what, where=shown, mend="write http://HOST:PORT, or https") from error


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if error := event.get("error"):
                raise EngineError(str(error.get("message", error)))
            yield event
    raise EngineError("the answer is not complete: the stream ended without its last event")


def _check(answer: httpx.Response) -> None:
    """Raise what the server answered, if it is no success."""
    if answer.status_code == httpx.codes.OK:
        return
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {answer.status_code}, in no form of OpenAI's"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise RequestError(message, mend="put the server's API key into PACKAGER_API_KEY")
    if answer.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
        raise UnavailableError(message)
    raise RequestError(message) if answer.is_client_error else EngineError(message)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except PackagerError:
        raise
    except httpx.ConnectError as error:
        raise UnavailableError(f"nobody answers: {error}", where=url, mend="is the server up?") from error
    except httpx.HTTPError as error:
        raise EngineError(f"the answer is not complete: {error}", where=url) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineError("the server's answer is not OpenAI's", where=url, mend="is this a model server?") from error
