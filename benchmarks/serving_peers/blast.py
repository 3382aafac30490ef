"""No server at all: one answer, made beforehand, to whatever is asked. It shows what the client can take."""

import asyncio
import sys

import uvloop

_EVENT = b'data: {"text":" w"}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Blast(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._transport.write(self._answer)


async def main(port: int, events: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
    answer = _HEAD + chunk * events + b"0\r\n\r\n"
    server = await asyncio.get_running_loop().create_server(lambda: Blast(answer), "127.0.0.1", port)
    await server.serve_forever()


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
