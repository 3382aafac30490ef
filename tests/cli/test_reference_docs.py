"""The generated reference says what the code says, and the how-to's examples are right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from packager.lock.check import check
from packager.spec.load import SPEC_NAME, load_spec

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PAGES = ("choose-an-engine.md", "write-a-spec.md")


def test_the_reference_is_current():
    found = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def blocks(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (HOW_TO / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("page", "number"), [(page, number) for page in PAGES for number in range(len(blocks(page)))])
def test_the_how_tos_specs_are_right(page, number, tmp_path):
    text = blocks(page)[number]
    kind = "llama_cpp" if "weights:" in text else "echo"
    rest = {"name:": "name: x", "engine:": f"engine: {{kind: {kind}}}"}
    if "engine:" in text and "echo" not in text:
        rest["weights:"] = "weights: {source: file://m}"
    missing = "\n".join(line for key, line in rest.items() if key not in text)
    (tmp_path / SPEC_NAME).write_text(f"{text}\n{missing}\n")
    check(load_spec(tmp_path))
