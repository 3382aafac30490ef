"""What vLLM and its companions read from the environment when they are imported: import this before vllm.

The processes that vLLM starts inherit it.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .vllm_logs import Folder

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


def _private_folder() -> Folder:
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR").upper()
    if "--multiprocessing-fork" in sys.orig_argv:  # vLLM's process begins by importing the script that imported us
        return Folder(Path(), level)
    folder = Folder(Path(tempfile.mkdtemp(prefix=_PREFIX)), level)
    folder.write()
    atexit.register(shutil.rmtree, folder.path, ignore_errors=True)
    _set("VLLM_LOGGING_CONFIG_PATH", folder.settings)
    # The sockets between vLLM's processes, which it leaves behind: by default in a folder that everybody can read.
    _set("VLLM_RPC_BASE_PATH", folder.path)
    return folder


def _set(name: str, path: Path) -> None:
    """Set the variable, unless somebody chose a value: a process of ours that started this one has not."""
    if _PREFIX in os.environ.get(name, _PREFIX):
        os.environ[name] = str(path)


FOLDER = _private_folder()
"""Of this process; without a place in vLLM's, which have no use for it."""
