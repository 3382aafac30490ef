"""What LMDeploy and its companions read from the environment when they are imported: import this before lmdeploy."""

import os

# The weights are a verified local folder; whatever it lacks must not be looked up on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Ray, by which the PyTorch engine reaches more than one GPU, reports its use to its authors.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# TurboMind's library logs by itself; at its own level each request is a line.
os.environ.setdefault("TM_LOG_LEVEL", "ERROR")
# Bars of progress have no place in a log.
os.environ.setdefault("TQDM_DISABLE", "1")
