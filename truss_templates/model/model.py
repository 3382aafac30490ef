"""The model as Truss serves it: `Model` with `load()` and `predict()`.

The work is done by the runtime in packages/, which Truss puts on sys.path; a plain import of this
file finds it too.
"""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent

try:
    from packager_runtime.runtime.model import Model as PackagedModel
except ModuleNotFoundError as error:
    if error.name != "packager_runtime":
        raise
    sys.path.append(str(PACKAGE / "packages"))
    from packager_runtime.runtime.model import Model as PackagedModel


class Model(PackagedModel):
    """Takes what Truss offers (config, data_dir, secrets, environment) and needs none of it."""

    def __init__(self, **_offered):
        super().__init__(PACKAGE)
