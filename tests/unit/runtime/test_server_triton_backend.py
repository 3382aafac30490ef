"""What Triton's newer releases ask of the model, which the tritonserver of the integration tests does not."""

import subprocess
import sys

from fakes.packages import make_package

MODEL = """
import sys
from pathlib import Path
from packager.runtime.server.triton_backend import PackagedModel

model = PackagedModel(Path(sys.argv[1]), None)
model.initialize({})
print(model.is_ready())
model.finalize()
print(model.is_ready())
"""


def test_whether_it_is_ready(tmp_path):
    package = make_package(tmp_path / "package", vendored=False)
    done = subprocess.run([sys.executable, "-c", MODEL, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
