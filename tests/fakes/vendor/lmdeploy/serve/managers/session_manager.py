import asyncio
import itertools
from contextlib import asynccontextmanager

from ..core.exceptions import ErrorCode, RequestError, SafeRunException


class Session:
    def __init__(self, session_id, session_mgr, **kwargs):
        self.session_id = session_id
        self._handle = None
        self._session_mgr = session_mgr

    @asynccontextmanager
    async def request_handle(self):
        if self._handle is not None:
            raise RequestError(ErrorCode.REQUEST_CONFLICT)
        pool = self._session_mgr.request_handle_pool
        self._handle = await pool.get()
        try:
            yield self._handle
        except SafeRunException:
            pass
        except (asyncio.CancelledError, GeneratorExit):  # swallowed, as in lmdeploy
            await self._handle.async_cancel(self.session_id)
        finally:
            pool.put_nowait(self._handle)
            self._handle = None

    async def async_abort(self):
        if self._handle is not None:
            await self._handle.async_cancel(self.session_id)


class SessionManager:
    def __init__(self):
        self.sessions = {}
        self.session_id_generator = itertools.count(0)
        self.request_handle_pool = None
        self.loop = None

    def get(self, session_id=None, create_if_not_exists=True, **kwargs):
        name = next(self.session_id_generator) if session_id is None else session_id
        return self.sessions.setdefault(name, Session(name, self))

    def remove(self, session):
        self.sessions.pop(session.session_id, None)

    def attach_event_loop(self, loop):
        self.loop = loop

    def build_request_handle_pool(self, engine, size):
        self.request_handle_pool = asyncio.Queue()
        for _ in range(size):
            self.request_handle_pool.put_nowait(engine.create_instance())
