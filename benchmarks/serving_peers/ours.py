"""packager's app under `bentoml serve`, as a package's service.py has it."""

import os
from pathlib import Path

from packager.runtime.server.bento import make_service

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
Service = make_service(Path(os.environ["PACKAGE"]))
