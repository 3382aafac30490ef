"""vLLM's own OpenAI server as an ASGI app over an AsyncLLM that runs, for `serving.api: native`.

It brings what our interface has not: tool calls, vision, the Responses API. Its routes lie under /v1, as ours do; the
probes, metrics and keys it has as well are ours to answer (server/native.py).
"""

from . import vllm_environment  # noqa: F401

# isort: split

import argparse
from types import SimpleNamespace
from typing import Any

from vllm.entrypoints.openai.models.protocol import LoRAModulePath
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from ...errors import LoadError
from ..engine import ASGI, EngineSetup
from ..threads import in_daemon_thread

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:  # where they were before: vLLM 0.23
    from vllm.entrypoints.openai.api_server import build_app, init_app_state
    from vllm.entrypoints.openai.cli_args import make_arg_parser


async def native_app(llm: Any, setup: EngineSetup, tool_parser: str | None) -> ASGI:
    """The app for the AsyncLLM `llm`, which it uses beside ours; another AsyncLLM needs another app.

    Model, chat template and adapters are those of `setup`; `tool_parser` is vLLM's name for how the model writes tool
    calls, without which it refuses tools. Its lifespan is not to be run: what that does is ours. Raises LoadError when
    vLLM has no such parser.
    """
    arguments = await in_daemon_thread(lambda: _arguments(setup, tool_parser))
    tasks = await llm.get_supported_tasks()
    app = await in_daemon_thread(lambda: build_app(arguments, tasks, llm.model_config))
    await init_app_state(llm, app.state, arguments, tasks)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM would end the server when the engine died
    handler: ASGI = app
    return handler


def _arguments(setup: EngineSetup, tool_parser: str | None) -> argparse.Namespace:
    """What `vllm serve` would have been told."""
    words = ["--model", str(setup.weights), "--served-model-name", setup.model]
    # Reports and pages that ours has, or that nobody asked for.
    words += ["--disable-log-stats", "--disable-fastapi-docs"]
    if tool_parser is not None:
        if tool_parser not in (known := ToolParserManager.list_registered()):
            mend = f"set `engine.tool_parser` to one of {', '.join(known)}"
            raise LoadError(f"vLLM has no tool parser {tool_parser!r}", where="model/manifest.json", mend=mend)
        words += ["--enable-auto-tool-choice", "--tool-call-parser", tool_parser]
    arguments: argparse.Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    arguments.chat_template = setup.chat_template
    arguments.lora_modules = [LoRAModulePath(name, str(folder)) for name, folder in setup.adapters.items()]
    return arguments
