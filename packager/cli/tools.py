"""The tools that commands hand to the pipeline: as the environment configures them, with progress."""

from dataclasses import replace

import click

from ..lock.tools import Tools, default_tools
from ..weights.leases import leased
from .progress import Progress


def make_tools(progress: Progress, *, offline: bool = False) -> Tools:
    """Tools for one command, which holds the whole store until it ends: what it will need is not known beforehand."""
    tools = shown_tools(progress, offline=offline)
    context = click.get_current_context()
    context.with_resource(leased(tools.store, f"packager {context.info_name}", None))
    return tools


def shown_tools(progress: Progress, *, offline: bool = False) -> Tools:
    """The same for a command whose work holds the store by itself."""
    tools = default_tools()
    return replace(
        tools, offline=offline or tools.offline, stage=progress.stage, on_bytes=progress.on_bytes, say=progress.say
    )
