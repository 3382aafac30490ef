"""The echo engine: answers with the prompt's own words. For tests, and for trying a base or a server."""

from .recipe import Recipe

RECIPE = Recipe(engine="echo", distribution=None, default_version="1", weights=())
