"""packager's own distribution: what is in it, and that it works where nothing of the source tree is."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from fakes.cli import ROOT


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    outside = [name for name in names if not name.startswith(("packager/", "llm_packager-"))]
    assert outside == []
    for needed in (
        "_truss_templates/service.py",
        "_truss_templates/model/model.py",
        "debian/reviewed.json",
        "py.typed",
    ):
        assert f"packager/{needed}" in names
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "packager").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert ours <= set(names)


def test_the_sdist_holds_what_tests_and_docs_need(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "packager/_truss_templates/service.py",
        "examples/hello/packager.yaml",
    } <= names
    assert not any("packager.lock" in name and name.startswith("examples/") for name in names)


def test_an_installed_wheel_plans_a_package(dist: Path, tmp_path: Path) -> None:
    """Installed beside our dependencies, away from the tree: the command answers and the templates are there."""
    target = tmp_path / "site"
    wheel = next(dist.glob("*.whl"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True)
    code = (
        "import packager, sys\n"
        "from pathlib import Path\n"
        "from packager.package.sources import read_ingredients\n"
        "from packager.spec.load import load_spec\n"
        "assert str(Path(packager.__file__)).startswith(sys.argv[1]), packager.__file__\n"
        "Path('packager.yaml').write_text('name: x\\nengine: {kind: echo}\\n')\n"
        "found = read_ingredients(load_spec(Path('packager.yaml')))\n"
        "assert 'service.py' in found.templates and 'runtime/engine.py' in found.runtime and found.version\n"
        "from packager.cli.app import main\n"
        "sys.exit(main(['schema', '--check', 'packager.yaml']))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
