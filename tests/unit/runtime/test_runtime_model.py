"""The faces of a model: asynchronous, synchronous, Truss's."""

import asyncio
import importlib.util
import inspect
import sys

import pytest
from fakes.packages import make_package
from fakes.serving import wait_until

from packager.errors import EngineError, LoadError, PackageError, RequestError
from packager.runtime.model import AsyncModel, LocalModel, Model
from packager.store import Store


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package", vendored=False)


@pytest.fixture
def failing(tmp_path):
    return make_package(tmp_path / "package", vendored=False, options={"fail_after": 2})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


ANSWER = {
    "text": "a b c",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}


async def test_async(package, store):
    model = AsyncModel(package, store)
    await model.load()
    assert await model.predict({"prompt": "a b c"}) == ANSWER
    stream = await model.predict({"prompt": "a b c", "stream": True})
    assert [text async for text in stream] == ["a", " b", " c"]
    await model.stop()


def test_local(package, store):
    with LocalModel(package, store) as model:
        assert model.predict({"messages": [{"role": "user", "content": "a b c"}]}) == ANSWER
        assert list(model.predict({"prompt": "a b c", "stream": True})) == ["a", " b", " c"]
        with pytest.raises(RequestError, match="top_q"):
            model.predict({"prompt": "a", "top_q": 1})
    model.close()


def test_local_raises_what_a_stream_failed_with(failing, store):
    with LocalModel(failing, store) as model:
        stream = model.predict({"prompt": "a b c", "stream": True})
        assert [next(stream), next(stream)] == ["a", " b"]
        with pytest.raises(EngineError, match="fail_after"):
            next(stream)


def test_local_says_why_it_cannot_load(tmp_path, store):
    with pytest.raises(PackageError, match="not a package"):
        LocalModel(tmp_path, store)
    with pytest.raises(LoadError, match="needs weights"):
        LocalModel(make_package(tmp_path / "p", engine="llama_cpp", vendored=False), store)


async def test_truss_streams_a_native_generator_on_another_loop(package, store):
    model = Model(package, store)
    assert not model.is_healthy()
    await asyncio.to_thread(model.load)
    assert model.is_healthy()
    assert await model.predict({"prompt": "a b c"}) == ANSWER
    stream = await model.predict({"prompt": "a b c", "stream": True})
    assert inspect.isasyncgen(stream)
    assert [text async for text in stream] == ["a", " b", " c"]
    model.close()


async def test_truss_sees_a_failure_inside_the_generator(failing, store):
    model = Model(failing, store)
    await asyncio.to_thread(model.load)
    stream = await model.predict({"prompt": "a b c", "stream": True})
    assert [await anext(stream), await anext(stream)] == ["a", " b"]
    with pytest.raises(EngineError, match="fail_after"):
        await anext(stream)
    model.close()


async def test_a_call_that_truss_cancels_frees_its_slot(tmp_path, store):
    model = Model(make_package(tmp_path / "p", vendored=False, options={"delay_ms": 60_000}, max_concurrency=1), store)
    await asyncio.to_thread(model.load)
    call = asyncio.create_task(model.predict({"prompt": "a"}))
    metrics = model._owner.model._supervisor.metrics
    await asyncio.to_thread(wait_until, lambda: metrics.running == 1, "it runs")
    call.cancel()
    await asyncio.to_thread(wait_until, lambda: metrics.running == 0, "the slot is free")
    await asyncio.to_thread(wait_until, lambda: metrics.outcomes["abort"] == 1, "it is counted")
    model.close()


async def test_a_stream_that_truss_closes_frees_its_slot(tmp_path, store):
    model = Model(make_package(tmp_path / "p", vendored=False, options={"delay_ms": 30}, max_concurrency=1), store)
    await asyncio.to_thread(model.load)
    stream = await model.predict({"prompt": "w " * 1000, "stream": True})
    await anext(stream)
    await stream.aclose()
    metrics = model._owner.model._supervisor.metrics
    await asyncio.to_thread(wait_until, lambda: metrics.running == 0, "the slot is free")
    await asyncio.to_thread(wait_until, lambda: metrics.outcomes["abort"] == 1, "it is counted")
    model.close()


def test_a_stream_that_is_dropped_unread_frees_its_slot(tmp_path, store):
    slow = make_package(tmp_path / "p", vendored=False, options={"delay_ms": 60_000})
    with LocalModel(slow, store) as model:
        model.predict({"prompt": "a", "stream": True})
        metrics = model._owner.model._supervisor.metrics
        wait_until(lambda: metrics.outcomes["abort"] == 1, "the slot is free")


async def test_predict_before_load(package, store):
    with pytest.raises(LoadError, match="not loaded"):
        await Model(package, store).predict({"prompt": "a"})


def test_the_truss_template_finds_the_vendored_runtime(tmp_path, monkeypatch):
    """Imported by its path alone, as Truss does after it has read config.yaml."""
    folder = make_package(tmp_path / "package")
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("model_under_test", folder / "model/model.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        assert module.Model.__mro__[1].__module__ == "packager_runtime.runtime.model"
        model = module.Model(config={}, data_dir=folder / "data", secrets={}, environment=None)
        model.load()
        assert asyncio.run(model.predict({"prompt": "a b c"})) == ANSWER
        model.close()
    finally:
        for name in [name for name in sys.modules if name.startswith("packager_runtime")]:
            del sys.modules[name]
