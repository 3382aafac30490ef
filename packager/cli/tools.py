"""The tools that commands hand to the pipeline: as the environment configures them, with progress."""

from dataclasses import replace

from ..lock.tools import Tools, default_tools
from .progress import Progress


def make_tools(progress: Progress, *, offline: bool = False) -> Tools:
    """Tools for one command."""
    tools = default_tools()
    return replace(
        tools, offline=offline or tools.offline, stage=progress.stage, on_bytes=progress.on_bytes, say=progress.say
    )
