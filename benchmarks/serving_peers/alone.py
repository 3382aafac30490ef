"""vLLM's AsyncLLM and nothing around it, asked from its own process: no HTTP, no server.

Reads a line of JSON for each run, answers with one: see vllm_serving.py.
"""

import asyncio
import itertools
import json
import sys
import time
from typing import Any

import uvloop
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM


class Asking:
    """Asks as packager/bench/client.py does, and tells what that tells."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._asked = 0

    async def run(self, questions: list[tuple[str, int]], concurrency: int) -> dict[str, Any]:
        gate, begun = asyncio.Semaphore(concurrency), time.perf_counter()
        outcomes = await asyncio.gather(*(self._one(gate, begun, *question) for question in questions))
        return {"seconds": time.perf_counter() - begun, "outcomes": outcomes}

    async def _one(self, gate: asyncio.Semaphore, arrived: float, prompt: str, limit: int) -> dict[str, Any]:
        async with gate:
            self._asked += 1
            sampling = SamplingParams(
                max_tokens=limit, ignore_eos=True, temperature=0, output_kind=RequestOutputKind.DELTA
            )
            started, times, tokens, text = time.perf_counter(), [], 0, []
            async for output in self._llm.generate({"prompt": prompt}, sampling, str(self._asked)):
                times.append(time.perf_counter())
                tokens += len(output.outputs[0].token_ids)
                text.append(output.outputs[0].text)
            return {
                "arrived": arrived,
                "started": started,
                "ttft": times[0] - started,
                "itl": [later - earlier for earlier, later in itertools.pairwise(times)],
                "latency": times[-1] - started,
                "prompt_tokens": len(output.prompt_token_ids),
                "output_tokens": tokens,
                "text": "".join(text),
            }


async def main() -> None:
    loop = asyncio.get_running_loop()
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**json.loads(sys.argv[1])))
    asking = Asking(llm)
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print("result " + json.dumps(await asking.run(**json.loads(line))), flush=True)
    llm.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
