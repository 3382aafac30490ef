"""What vLLM and its companions read from the environment when they are imported: import this before vllm.

The processes that vLLM starts inherit it.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from .vllm_logs import write_settings

# Reports of usage go to vLLM's authors.
os.environ["VLLM_NO_USAGE_STATS"] = "1"
# The weights are a verified local folder; whatever it lacks must not be looked up on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# A forked engine would inherit the server's sockets: clients would not see their connections end before it does.
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
# PyTorch's C++ code warns on standard error by itself.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _log_quietly() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="packager-vllm-"))  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(write_settings(folder, level.upper())))
    return folder


LOGS = _log_quietly()
"""Where vLLM's processes write their errors (vllm_logs.py)."""
