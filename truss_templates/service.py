"""`bentoml serve` starts here. The package is self-contained: its runtime lies in packages/."""

import os
import sys
from pathlib import Path

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
PACKAGE = Path(__file__).resolve().parent
sys.path.insert(0, str(PACKAGE / "packages"))

from packager_runtime.runtime.server.bento import make_service  # noqa: E402

Service = make_service(PACKAGE)
