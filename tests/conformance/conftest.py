"""A case that is not `whole` runs the tests marked `every_model` only."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    partial = [item for item in items if _left_out(item)]
    if partial:
        config.hook.pytest_deselected(items=partial)
        items[:] = [item for item in items if item not in partial]


def _left_out(item: pytest.Item) -> bool:
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    return case is not None and not case.whole and item.get_closest_marker("every_model") is None
