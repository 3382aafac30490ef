"""The public names, pinned: a change here is a change for users."""

import subprocess
import sys

import packager

NAMES = [
    "BuildOptions", "PackagerError", "Tools", "assemble_image", "build", "default_tools", "load", "load_spec",
    "plan_image", "plan_package", "push_image", "read_ingredients", "read_layout", "read_package", "resolve", "serve", "write_layout",
    "write_package",
]  # fmt: skip


def test_names_are_pinned_and_sorted() -> None:
    assert packager.__all__ == NAMES


def test_every_name_is_there_and_documented() -> None:
    for name in NAMES:
        assert getattr(packager, name).__doc__, name


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(packager, "nonsense")


def test_importing_packager_imports_nothing_else() -> None:
    code = "import sys, packager; print(sorted(name for name in sys.modules if name.split('.')[0] in "
    code += "('pydantic', 'yaml', 'httpx', 'rich', 'docker', 'click', 'orjson', 'uvicorn')))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
