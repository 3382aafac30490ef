"""What TensorRT-LLM's two engines share: the life of one LLM of its LLM API."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tensorrt_llm import SamplingParams

from ...errors import EngineError, LoadError, PackagerError
from ..engine import Delta, EngineFacts, EngineHealth, EngineSetup, Features, GenerationRequest
from ..threads import in_daemon_thread
from . import read_options
from .tensorrt_llm_folder import Words
from .tensorrt_llm_options import TensorrtOptions
from .tensorrt_llm_streams import Streams, said


class TensorrtLlmBase:
    """One LLM; a subclass says how it is loaded, and which sampling (`can`) it honours."""

    kind: str
    can: frozenset[str]

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup
        self.options = read_options(TensorrtOptions, setup)
        self._llm: Any = None
        self._streams: Streams | None = None
        self._reason = "the engine has not started"

    @abstractmethod
    def load(self, folder: Path) -> tuple[Any, Words]:
        """The LLM and its words. Runs in a thread. Raises LoadError, or what TensorRT-LLM raises."""

    async def start(self) -> EngineFacts:
        setup, folder = self.setup, self.setup.weights
        if folder is None:
            mend = "give `weights` in the spec"
            raise LoadError(f"{self.kind} needs weights", where="model/manifest.json", mend=mend)
        try:
            self._llm, words = await in_daemon_thread(lambda: self.load(folder))
            streams = Streams(self._llm, SamplingParams, words, self.can)
            await streams.prove()
        except PackagerError:
            raise
        except Exception as error:
            mend = "the lines that TensorRT-LLM wrote before this one say more"
            raise LoadError(f"TensorRT-LLM cannot load it: {said(error)}", where=str(folder), mend=mend) from error
        self._streams, self._reason = streams, ""
        features = Features(sampling=self.can, chat=words.template is not None)
        return EngineFacts(self.kind, setup.version, setup.model, words.context, setup.slots, features)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if self._streams is None:
            raise EngineError(self._reason)
        async with aclosing(self._streams.stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def abort(self, request_id: str) -> None:
        if self._streams is not None:
            await self._streams.abort(request_id)

    async def stop(self) -> None:
        died, self._reason = not self.health().alive, "the engine was stopped"
        if self._streams is not None:
            self._streams.end(self._reason)
        llm, self._llm, self._streams = self._llm, None, None
        if llm is not None:
            try:
                await in_daemon_thread(llm.shutdown)
            except Exception:
                if not died:  # else it says once more what it died of, after all is closed (1.2, proxy.py)
                    raise

    def health(self) -> EngineHealth:
        if self._streams is not None:
            self._streams.look()
        reason = self._reason or (self._streams.reason if self._streams else "")
        return EngineHealth(not reason, reason)
