"""vLLM's process: killed, stopped, interrupted, started again; and starts that fail."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from fakes.engines import make_setup
from fakes.lora import write_adapter
from fakes.models import write_model

from packager.errors import EngineError, LoadError
from packager.runtime.engine import Delta, EngineSetup, GenerationRequest, SamplingParams
from packager.runtime.engines.vllm import VllmEngine
from packager.runtime.engines.vllm_environment import FOLDER
from packager.runtime.engines.vllm_process import check_sockets

pytestmark = pytest.mark.asyncio(loop_scope="session")
OPTIONS = {"context_length": 256, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vllm") / "llama")


def setup(weights: Path, **options: object) -> EngineSetup:
    return make_setup(weights, 4, **(OPTIONS | options))


def ask(name: str = "r", max_tokens: int = 200) -> GenerationRequest:
    return GenerationRequest(name, prompt="one two", sampling=SamplingParams(max_tokens=max_tokens, ignore_eos=True))


async def read(engine: VllmEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def family() -> list[psutil.Process]:
    """Processes below this one, without the helper that multiprocessing keeps as long as this one runs."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "resource_tracker" not in command(one)]


def command(process: psutil.Process) -> str:
    """Its words; empty when it has ended since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def core(engine: VllmEngine) -> int:
    return engine._process._family._core.pid


def shared_memory(pid: int) -> set[int]:
    """The inodes of the shared memory, semaphores among it, that a process has open."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {int(line.split()[4]) for line in maps if " /dev/shm/" in line}


def left_in_memory(inodes: set[int]) -> set[str]:
    with os.scandir("/dev/shm") as entries:
        return {one.name for one in entries if one.inode() in inodes}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def killed(weights: Path) -> AsyncIterator[dict]:
    """An engine that was killed with four streams open, was stopped, and a second one in its place."""
    seen = {"family": family()}
    engine = VllmEngine(setup(weights))
    await engine.start()
    streams = [engine.stream(ask(str(number))) for number in range(4)]
    for stream in streams:
        await anext(stream)
    reading = [asyncio.create_task(_rest(stream)) for stream in streams]
    memory = shared_memory(core(engine))
    seen["memory"] = left_in_memory(memory)
    os.kill(core(engine), signal.SIGKILL)
    seen["errors"] = await asyncio.gather(*reading)
    await until(lambda: not engine.health().alive)
    seen["health"] = engine.health()
    await engine.stop()
    await engine.stop()
    seen["left"] = family(), left_in_memory(memory)
    again = VllmEngine(setup(weights))
    await again.start()
    seen["engine"], seen["dead"] = again, engine
    yield seen
    await again.stop()


async def _rest(stream: AsyncIterator[Delta]) -> Exception | None:
    try:
        async for _ in stream:
            pass
    except EngineError as error:
        return error
    return None


async def test_its_streams_fail_and_say_why(killed):
    assert len(killed["errors"]) == 4
    assert all("killed by SIGKILL" in str(error) for error in killed["errors"])


async def test_its_death_is_known_without_a_request(killed):
    """After some milliseconds, as measured."""
    assert not killed["health"].alive
    assert "killed by SIGKILL" in killed["health"].reason


async def test_a_dead_engine_takes_no_request(killed):
    with pytest.raises(EngineError):
        await read(killed["dead"], ask())
    await killed["dead"].abort("r")


async def test_nothing_of_it_is_left(killed):
    processes, memory = killed["left"]
    assert processes == killed["family"]
    assert killed["memory"]
    assert not memory


async def test_another_starts_in_its_place(killed):
    deltas = await read(killed["engine"], ask(max_tokens=5))
    assert deltas[-1].usage.completion_tokens == 5
    assert killed["engine"].health().alive


async def test_ctrl_c_is_for_the_server(killed):
    """A terminal sends it to vLLM's process as well, which would end all requests of a server that drains."""
    engine, got = killed["engine"], 0
    async for delta in engine.stream(ask()):
        got += delta.tokens
        if got == delta.tokens:
            os.kill(core(engine), signal.SIGINT)
    assert delta.finish_reason == "length"
    assert got == 200


async def test_the_sockets_between_the_processes_are_private(killed):
    folder = FOLDER.path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path for path in folder.iterdir() if path.is_socket()]


SERVER = """
import asyncio, multiprocessing, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from fakes.engines import make_setup
from packager.runtime.engines.vllm import VllmEngine

async def main():
    engine = VllmEngine(make_setup(Path(sys.argv[1]), context_length=256, eager=True, kv_cache_gib=0.125))
    await engine.start()
    print(*(one.pid for one in multiprocessing.active_children()), flush=True)
    await asyncio.sleep(1000)

if __name__ == "__main__":
    asyncio.run(main())
"""


TESTS = Path(__file__).resolve().parents[3]


async def test_it_ends_with_a_server_that_was_killed(weights, tmp_path):
    """vLLM's own engine process stays, with all its memory, and the next server finds none."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    argv = [sys.executable, str(script), str(weights), str(TESTS)]
    server = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    core = psutil.Process(int(await server.stdout.readline()))
    assert core.is_running()
    server.kill()
    try:
        await until(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE)
    finally:
        with suppress(psutil.NoSuchProcess):
            core.kill()
        await server.wait()


async def test_a_model_that_vllm_does_not_know(tmp_path):
    folder = write_model(tmp_path / "model")
    config = (folder / "config.json").read_text().replace("LlamaForCausalLM", "NowhereForCausalLM")
    (folder / "config.json").write_text(config.replace('"llama"', '"nowhere"'))
    with pytest.raises(LoadError, match="nowhere") as caught:
        await VllmEngine(setup(folder)).start()
    assert "\n" not in str(caught.value)
    assert caught.value.problems[0].where == str(folder)


@pytest.mark.parametrize("text", ["", "no json", None], ids=["empty", "not json", "missing"])
async def test_a_config_that_cannot_be_read(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(LoadError, match=r"config\.json"):
        await VllmEngine(setup(tmp_path)).start()


async def test_no_room_for_the_cache(weights):
    """The reason is known in vLLM's process only."""
    before, users = family(), FOLDER._users
    engine = VllmEngine(setup(weights, kv_cache_gib=1e-6))
    with pytest.raises(LoadError, match="No available memory for the cache blocks") as caught:
        await engine.start()
    assert "\n" not in str(caught.value)
    assert "serving.max_concurrency" in caught.value.problems[0].mend
    assert FOLDER._users == users + 1
    await engine.stop()
    await engine.stop()
    assert family() == before
    assert FOLDER._users == users


async def test_an_adapter_of_too_large_a_rank(weights, tmp_path):
    adapters = {"wide": write_adapter(tmp_path / "wide", rank=64)}
    engine = VllmEngine(replace(setup(weights, max_lora_rank=16), adapters=adapters))
    with pytest.raises(LoadError, match=r"adapter wide: .*rank 64"):
        await engine.start()
    await engine.stop()


async def test_without_weights():
    with pytest.raises(LoadError, match="needs weights"):
        await VllmEngine(make_setup()).start()


async def test_a_folder_that_is_too_deep_for_sockets_is_told_before_vllm_starts():
    check_sockets(Path("/" + "a" * 69))  # with a slash and a UUID 107 bytes, all that Linux takes
    with pytest.raises(LoadError, match="too long for a Unix socket") as caught:
        check_sockets(Path("/" + "a" * 70))
    assert caught.value.problems[0].mend == "set TMPDIR to a shorter folder"
