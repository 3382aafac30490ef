"""What Triton's newer releases ask of the model, which the tritonserver of the integration tests does not."""

import os
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


REFUSED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from packager.runtime.server.triton_backend import PackagedModel
from packager.runtime.server.triton_bls import Bls

backend = SimpleNamespace(TritonModelException=type("TritonModelException", (Exception,), {}))
described = '{"parameters": {"tensorrt_llm_model_name": {"string_value": "engine"}, '
described += '"accumulate_tokens": {"string_value": "false"}, "tokenizer_dir": {"string_value": ""}}, '
described += '"input": [], "output": []}'
for model in (PackagedModel, Bls):
    try:
        model(Path(sys.argv[1]), backend).initialize({"model_config": described})
    except backend.TritonModelException as error:
        print(error)
"""


def test_whether_it_is_ready(tmp_path):
    package = make_package(tmp_path / "package", vendored=False)
    done = subprocess.run([sys.executable, "-c", MODEL, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_an_environment_that_says_nothing_is_told_by_tritons_exception(tmp_path):
    package = make_package(tmp_path / "package", vendored=False)
    env = {**os.environ, "PACKAGER_LOG_LEVEL": "bogus"}
    command = [sys.executable, "-c", REFUSED, str(package)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    one, two = done.stdout.splitlines()
    assert one == two
    assert "PACKAGER_LOG_LEVEL: it is 'bogus'" in one
