"""One pure file per engine, and the table that names them."""

from collections.abc import Mapping

from . import echo, llama_cpp
from .recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    "echo": echo.RECIPE,
    "llama_cpp": llama_cpp.RECIPE,
}
"""Every engine of the spec has its recipe here (tests/unit/recipes compares the two)."""
