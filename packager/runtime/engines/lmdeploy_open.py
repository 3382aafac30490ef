"""One of LMDeploy's engines over a folder of weights: the one that was asked for, or none."""

# Sets what the imports below read; it must come first.
from . import lmdeploy_environment  # noqa: F401

# isort: split

import logging
from pathlib import Path
from typing import Any

from lmdeploy.messages import PytorchEngineConfig, TurbomindEngineConfig
from lmdeploy.serve.core.async_engine import AsyncEngine
from lmdeploy.utils import get_logger

from ...errors import LoadError
from ..engine import EngineSetup
from .lmdeploy_options import PYTORCH, LmdeployOptions, config_words
from .lmdeploy_requests import one_line

_ADVICE = "if memory is short, lower engine.context_length, engine.cache_share or serving.max_concurrency"


def open_llm(setup: EngineSetup, options: LmdeployOptions, weights: Path) -> Any:
    """Load the model; gives the AsyncEngine, whose loop has not begun. Raises LoadError with LMDeploy's reason.

    Blocks for as long as loading takes.
    """
    _quiet()
    words = config_words(setup, options)
    try:
        if options.backend == PYTORCH:
            config = PytorchEngineConfig(**words)
        else:
            _refuse_others(setup, weights)
            config = TurbomindEngineConfig(**words)
        return AsyncEngine(
            str(weights),
            model_name=setup.model,
            backend=options.backend,
            backend_config=config,
            trust_remote_code=setup.own_code,
        )
    except LoadError:
        raise
    except (Exception, SystemExit) as error:  # its checks of the environment end the process
        raise LoadError(f"LMDeploy cannot start: {one_line(error)}", where=str(weights), mend=_ADVICE) from error


def _refuse_others(setup: EngineSetup, weights: Path) -> None:
    """LMDeploy's own `pipeline` would take its PyTorch engine in these cases, and only log it."""
    if not _turbomind_is_there():
        what = "TurboMind cannot be loaded on this machine: its library needs CUDA 12's, and NVIDIA's driver"
        raise LoadError(what, mend="run it on a machine with an NVIDIA GPU, from the package's requirements.txt")
    from lmdeploy.turbomind.supported_models import is_supported

    if not is_supported(str(weights), trust_remote_code=setup.own_code):
        raise LoadError(
            "TurboMind does not run this model",
            where=str(weights),
            mend="build the package with `engine.backend: pytorch`",
        )


def _turbomind_is_there() -> bool:
    """Whether its library can be loaded. Up to 0.17 to import it loads it; from 0.18 on it is asked."""
    try:
        from lmdeploy import turbomind
    except ImportError:
        return False
    return bool(getattr(turbomind, "is_available", lambda: True)())


def _quiet() -> None:
    """LMDeploy's log goes where ours does: by itself it writes to standard output, each prompt too."""
    log = get_logger("lmdeploy")
    log.handlers[:] = []
    log.propagate = True
    log.setLevel(logging.ERROR)
