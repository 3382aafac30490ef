"""huggingface_hub's side: a model into its cache."""

import sys

from huggingface_hub import snapshot_download

model, cache, workers = sys.argv[1:]
snapshot_download(model, cache_dir=cache, max_workers=int(workers))
