"""The generated reference says what the code says, and the how-to's examples are right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from packager.spec.load import check
from packager.spec.parse import parse_yaml

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "write-a-spec.md"


def test_the_reference_is_current():
    found = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks())))
def test_the_how_tos_specs_are_right(number):
    text = blocks()[number]
    whole = text if text.startswith(("name:", "#")) else "name: x\nengine: {kind: echo}\n" + text
    if "weights:" in whole:
        whole = whole.replace("{kind: echo}", "{kind: llama_cpp}")
    document = parse_yaml(whole.encode())
    check(document)
    assert document.problems == []
