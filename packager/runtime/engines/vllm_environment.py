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
# Python's and PyTorch's warnings in vLLM's processes are for vLLM's authors.
os.environ.setdefault("PYTHONWARNINGS", "ignore")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


_PREFIX = "packager-vllm-"


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    _set("VLLM_LOGGING_CONFIG_PATH", write_settings(folder, level.upper()))
    # The sockets between vLLM's processes, which it leaves behind: by default in a folder that everybody can read.
    _set("VLLM_RPC_BASE_PATH", folder)
    return folder


def _set(name: str, path: Path) -> None:
    """Set the variable, unless somebody chose a value: a process of ours that started this one has not."""
    if _PREFIX in os.environ.get(name, _PREFIX):
        os.environ[name] = str(path)


FOLDER = _private_folder()
"""This process's and its engine's: settings, errors (vllm_logs.py), sockets. It goes with this process."""
