"""What an adapter does beside the conformance suite: options, weights, errors of loading."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from fakes.engines import make_setup
from fakes.gguf import CHAT_TEMPLATE, write_tiny_gguf

from packager.errors import EngineError, LoadError
from packager.runtime.engine import GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine
from packager.runtime.engines.gguf import read_header
from packager.runtime.engines.llama_cpp import default_threads


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf", context_length=384)


def test_an_unknown_engine():
    with pytest.raises(
        LoadError,
        match="no adapter for the engine 'warp'; it has ctranslate2, echo, llama_cpp, lmdeploy, tensorrt_llm, tensorrt_llm_engine, transformers, vllm",
    ):
        open_engine("warp", make_setup())


@pytest.mark.parametrize(
    ("said", "what", "mend"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file", "the system library libgomp.so.1", "libgomp1`"),
        (
            "libwarp_2.so.3: cannot open shared object file: No such file",
            "the system library libwarp_2",
            "libwarp-2-3`",
        ),
        ("undefined symbol: warp", "cannot be imported: undefined symbol: warp", "requirements.txt as it is"),
    ],
)
def test_an_engine_whose_library_cannot_be_loaded(tmp_path, monkeypatch, said, what, mend):
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    monkeypatch.delitem(sys.modules, "packager.runtime.engines.llama_cpp")
    with pytest.raises(LoadError) as caught:
        open_engine("llama_cpp", make_setup())
    (problem,) = caught.value.problems
    assert what in problem.what
    assert mend in problem.mend


async def test_echo_fails_where_it_is_told_to():
    engine = open_engine("echo", make_setup(fail_after=2))
    await engine.start()
    stream = engine.stream(GenerationRequest("r", prompt="a b c d"))
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["a", " b"]
    with pytest.raises(EngineError, match="fail_after"):
        await anext(stream)


async def test_echo_keeps_all_white_space():
    engine = open_engine("echo", make_setup())
    await engine.start()
    prompt = "  two  words \n"
    assert "".join([delta.text async for delta in engine.stream(GenerationRequest("r", prompt=prompt))]) == prompt


def test_the_trained_context_is_read_from_the_header(tiny):
    assert read_header(tiny) == (384, (CHAT_TEMPLATE,))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: b"junk" + data[4:], "does not begin with GGUF"),
        (lambda data: data[:40], "no complete GGUF"),
        (lambda data: b"", "does not begin with GGUF"),
    ],
)
def test_a_damaged_header(tiny, change, what):
    tiny.write_bytes(change(tiny.read_bytes()))
    with pytest.raises(LoadError, match=what):
        read_header(tiny)


async def test_llama_cpp_uses_the_trained_context_unless_told(tiny):
    engine = open_engine("llama_cpp", make_setup(tiny, threads=1))
    assert (await engine.start()).context_length == 384
    await engine.stop()


async def test_llama_cpp_without_its_file(tmp_path):
    engine = open_engine("llama_cpp", make_setup(tmp_path / "gone.gguf"))
    with pytest.raises(LoadError, match="cannot be read"):
        await engine.start()


async def test_llama_cpp_refuses_what_the_library_refuses(tiny, capfd):
    tiny.write_bytes(tiny.read_bytes()[:20000])  # a whole header, tensors cut off
    engine = open_engine("llama_cpp", make_setup(tiny, context_length=64))
    with pytest.raises(LoadError, match=r"llama\.cpp cannot load the model"):
        await engine.start()
    assert "error loading model" in capfd.readouterr().err


async def test_llama_cpp_reads_text_of_several_tokens_a_character(tiny):
    engine = open_engine("llama_cpp", make_setup(tiny, threads=1))
    await engine.start()
    request = GenerationRequest("r", prompt="naïve 漢字 🙂", sampling=SamplingParams(max_tokens=4, temperature=0))
    deltas = [delta async for delta in engine.stream(request)]
    await engine.stop()
    assert deltas[-1].usage.completion_tokens == sum(delta.tokens for delta in deltas) == 4


async def test_nobody_can_reach_llama_cpps_own_listener(tiny):
    """Its HTTP listener would pass by admission: no TCP socket, and its Unix socket has no name any more."""
    before = await asyncio.to_thread(_listeners)
    engine = open_engine("llama_cpp", make_setup(tiny, threads=1))
    await engine.start()
    new = (await asyncio.to_thread(_listeners)) - before
    await engine.stop()
    assert len(new) == 1
    assert _is_gone(new.pop())


def _is_gone(name: str) -> bool:
    return name.startswith("/") and not Path(name).parent.exists()


def _listeners() -> set[str]:
    """What this process listens on: `HOST:PORT` in the kernel's hexadecimal, or a Unix socket's path."""
    owned = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            owned.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for row in _rows(table):
            if row[3] == "0A" and row[9] in owned:
                found.add(row[1])
    for row in _rows("unix"):
        if row[3] == "00010000" and row[6] in owned:
            found.add(row[7])
    return found


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]]


def test_threads_leave_a_core_to_the_server(tmp_path):
    """Physical cores, bounded by the container's quota, less one, at least one."""
    quota = tmp_path / "cpu.max"
    mine = sorted(os.sched_getaffinity(0))
    for cpu in mine:
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu}\n")
    quota.write_text("max 100000\n")
    assert default_threads(tmp_path, quota) == max(1, len(mine) - 1)
    quota.write_text("150000 100000\n")
    assert default_threads(tmp_path, quota) == 1
    for cpu in mine:
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text("0-99\n")
    assert default_threads(tmp_path, tmp_path / "none") == 1
    assert default_threads(tmp_path / "none", tmp_path / "none") == max(1, len(mine) - 1)
