"""What a stand-in cannot show is left out by the name of a test that there is: a renamed one runs again."""

import ast
from pathlib import Path

import pytest
from cases import ALL


@pytest.mark.parametrize("case", [case for case in ALL if case.shows_not], ids=lambda case: case.id)
def test_what_is_left_out_is_a_test_and_has_a_reason(case):
    trees = [ast.parse(path.read_text()) for path in Path(__file__).parent.glob("test_*.py")]
    tests = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
    assert case.shows_not.keys() <= tests
    assert all(case.shows_not.values())
