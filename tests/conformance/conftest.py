"""The engines under test, each started once for all tests of its case.

A case that is not `whole` runs the tests marked `every_model` only. A module's NOT_FOR names engines it says nothing of.
What a case's stand-in cannot show is named at the end, with the reason.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cases import CASES, Case

from packager.runtime.engine import Engine, EngineFacts

_UNSHOWN: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    partial = [item for item in items if _left_out(item)]
    if partial:
        config.hook.pytest_deselected(items=partial)
        items[:] = [item for item in items if item not in partial]


def _left_out(item: pytest.Item) -> bool:
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    if not isinstance(case, Case):
        return False
    name = getattr(item, "originalname", item.name)
    if reason := (case.shows_not or {}).get(name):
        _UNSHOWN.append(f"{case.id}: {name}: {reason}")
        return True
    partial = not case.whole and item.get_closest_marker("every_model") is None
    return partial or case.kind in getattr(item.module, "NOT_FOR", ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _UNSHOWN:
        terminalreporter.section("left out: what a stand-in cannot show")
        for line in _UNSHOWN:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started(case: Case, models: Path) -> AsyncIterator[tuple[Engine, EngineFacts]]:
    adapter = case.open(models)
    facts = await adapter.start()
    yield adapter, facts
    await adapter.stop()


@pytest.fixture(scope="session")
def engine(started: tuple[Engine, EngineFacts]) -> Engine:
    return started[0]


@pytest.fixture(scope="session")
def facts(started: tuple[Engine, EngineFacts]) -> EngineFacts:
    """What the engine said of itself when it started."""
    return started[1]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def slow_engine(case: Case, models: Path, engine: Engine) -> AsyncIterator[Engine]:
    """Slow enough to be caught in the middle of an answer; the same one where the engine is that by itself."""
    if not case.slow:
        yield engine
        return
    adapter = case.open(models, slow=True)
    await adapter.start()
    yield adapter
    await adapter.stop()


@pytest.fixture
def fresh(case: Case, models: Path) -> Engine:
    """Not started, for this test alone."""
    return case.open(models, slow=True)
