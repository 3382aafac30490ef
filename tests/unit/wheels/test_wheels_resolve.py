import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.wheels import make_wheel

from packager.command import Completed, run_command
from packager.digest import hash_file
from packager.errors import ResolveError
from packager.facts import BaseFacts
from packager.wheels.resolve import Wheel, resolve_image, resolve_universal

NATIVE = (
    "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
    "cp311-cp311-manylinux_2_34_x86_64",
    "cp311-cp311-manylinux_2_38_x86_64",
    "cp312-cp312-manylinux_2_17_x86_64",
    "cp311-cp311-musllinux_1_1_x86_64",
    "cp311-cp311-manylinux_2_17_aarch64",
    "cp311-cp311-win_amd64",
)


def names(wheels: Sequence[Wheel]) -> list[str]:
    return [f"{wheel.name} {wheel.version}" for wheel in wheels]


def test_closure_has_one_wheel_each_for_the_images_platform(links: Path, facts: BaseFacts) -> None:
    for tag in NATIVE:
        make_wheel(links, "native", "1.5", tag=tag)
    make_wheel(links, "App.Name", "2.0", requires=["native>=1", "colorama; sys_platform == 'win32'"])
    make_wheel(links, "colorama", "1.0")
    found = resolve_image(["app-name"], facts)
    path = links / "native-1.5-cp311-cp311-manylinux_2_34_x86_64.whl"
    assert names(found) == ["app-name 2.0", "native 1.5"]
    assert found[1] == Wheel("native", "1.5", path.name, path.stat().st_size, hash_file(path)[0])
    older = resolve_image(["app-name"], replace(facts, glibc="2.31"))
    assert older[1].file == f"native-1.5-{NATIVE[0]}.whl"
    newer = resolve_image(["app-name"], replace(facts, python="3.12.4"))
    assert newer[1].file == f"native-1.5-{NATIVE[3]}.whl"
    arm = resolve_image(["app-name"], replace(facts, architecture="arm64"))
    assert arm[1].file == f"native-1.5-{NATIVE[5]}.whl"


def test_constraints_and_overrides(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["lib<2"])
    for version in ("1.0", "1.9", "2.0"):
        make_wheel(links, "lib", version)
    assert names(resolve_image(["app"], facts)) == ["app 1.0", "lib 1.9"]
    assert names(resolve_image(["app"], facts, constraints=["lib<1.5"])) == ["app 1.0", "lib 1.0"]
    assert names(resolve_image(["app"], facts, overrides=["lib>=2"])) == ["app 1.0", "lib 2.0"]


def test_what_the_base_has_is_left_alone(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["torch>=2.7,<3", "numpy"])
    make_wheel(links, "torch", "2.8.0", requires=["nvidia-cublas"])
    make_wheel(links, "numpy", "2.0")
    make_wheel(links, "nvidia-cublas", "13.0")
    # a vendor's version that no index has, and whose dependencies are not followed
    base = replace(facts, installed={"torch": "2.9.0a0+nv25.9", "pillow": "10.0"})
    assert names(resolve_image(["app"], base)) == ["app 1.0", "numpy 2.0"]


def test_what_the_base_has_wins_over_the_same_version_of_an_index(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["torch"])
    make_wheel(links, "torch", "2.8.0", requires=["nvidia-cublas"], tag="cp311-cp311-manylinux_2_36_x86_64")
    make_wheel(links, "torch", "2.8.0+cpu", requires=["nvidia-cublas"])  # `==2.8.0` would take it
    make_wheel(links, "nvidia-cublas", "13.0")
    assert names(resolve_image(["app"], replace(facts, installed={"torch": "2.8.0"}))) == ["app 1.0"]


def test_conflict_with_the_base_names_what_the_base_has(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["torch>=2.7"])
    make_wheel(links, "torch", "2.8.0")
    with pytest.raises(ResolveError) as caught:
        resolve_image(["app"], replace(facts, installed={"torch": "2.6.0"}))
    problem = caught.value.problems[0]
    assert problem.what.startswith("the base already has torch 2.6.0, which the requirements do not allow: Because ")
    assert "torch>=2.7" in problem.what
    assert problem.mend.startswith("choose a base")


def test_versions_of_the_base_that_cannot_be_compared(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["distro"])
    make_wheel(links, "distro", "1.0")
    base = replace(facts, installed={"apt-thing": "0.36ubuntu3", "other": "1.0-1"})
    assert names(resolve_image(["app"], base)) == ["app 1.0", "distro 1.0"]
    with pytest.raises(ResolveError, match=r"the base already has distro 0\.36ubuntu3"):
        resolve_image(["app"], replace(facts, installed={"distro": "0.36ubuntu3"}))


def test_no_wheel_for_the_platform_says_which_there_are(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "winonly", "1.0", tag="cp311-cp311-win_amd64")
    make_wheel(links, "app", "1.0", requires=["winonly"])
    with pytest.raises(ResolveError) as caught:
        resolve_image(["app"], facts)
    problem = caught.value.problems[0]
    assert problem.what == (
        "winonly 1.0 has no wheel for CPython 3.11.2 on Linux amd64 with glibc 2.36; it has wheels for: win_amd64"
    )
    assert problem.where == "winonly"


def test_no_wheel_for_the_python_says_which_there_are(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "new", "1.0", tag="cp313-cp313-manylinux_2_17_x86_64")
    with pytest.raises(ResolveError, match=r"new 1\.0 has no wheel for CPython 3\.11\.2 .* wheels for: cp313"):
        resolve_image(["new"], facts)


def test_unknown_package(links: Path, facts: BaseFacts) -> None:
    with pytest.raises(ResolveError) as caught:
        resolve_image(["nonesuch"], facts)
    assert caught.value.problems[0].what == "no configured package index has nonesuch"


def test_source_only(links: Path, facts: BaseFacts) -> None:
    (links / "raw-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(ResolveError) as caught:
        resolve_image(["raw"], facts)
    assert caught.value.problems[0].what == "raw is published as source only; images take wheels"


def test_conflict_is_quoted_in_one_line(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "app", "1.0", requires=["lib<2"])
    make_wheel(links, "lib", "1.0")
    make_wheel(links, "lib", "2.0")
    with pytest.raises(ResolveError) as caught:
        resolve_image(["app", "lib>=2"], facts)
    what = caught.value.problems[0].what
    assert what.startswith("the requirements cannot be met: Because ")
    assert "\n" not in what
    assert "lib<2" in what
    assert "lib>=2" in what


def test_unreachable_index_hides_the_password(clients: None, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    with pytest.raises(ResolveError) as caught:
        resolve_image(["lib"], facts)
    what = caught.value.problems[0].what
    assert what.startswith("the package index cannot be reached: ")
    assert "hunter2" not in what


@pytest.mark.parametrize(
    "line",
    ["--index-url=x", "-r other.txt", "lib @ https://example.com/lib-1.0-py3-none-any.whl", "lib\n--pre", "./lib", ""],
)
def test_only_names_and_versions_are_requirements(links: Path, facts: BaseFacts, line: str) -> None:
    with pytest.raises(ResolveError) as caught:
        resolve_image([line], facts)
    assert caught.value.problems[0].where == line


def test_a_project_file_where_the_user_stands_changes_nothing(
    links: Path, facts: BaseFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(links, "lib", "1.0")
    make_wheel(links, "lib", "2.0")
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nresolution = "lowest"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", "links")  # relative, as pip allows
    assert names(resolve_image(["lib"], facts)) == ["lib 2.0"]


def test_universal_requirements(links: Path) -> None:
    a = make_wheel(links, "App", "1.0", requires=["win-thing; sys_platform == 'win32'", "lib"])
    make_wheel(links, "win-thing", "3.0")
    libs = [make_wheel(links, "lib", "1.0", tag=tag) for tag in (*NATIVE, "py3-none-any")]
    text = resolve_universal(["app"], python="3.11")
    hashes = sorted(f"    --hash=sha256:{hash_file(path)[0]}" for path in libs)
    lines = text.split("\n")
    assert lines[0] == "app==1.0 \\"
    assert lines[1] == f"    --hash=sha256:{hash_file(a)[0]}"
    assert lines[2] == "lib==1.0 \\"
    assert [line.removesuffix(" \\") for line in lines[3 : 3 + len(hashes)]] == hashes
    assert lines[3 + len(hashes)] == "win-thing==3.0 ; sys_platform == 'win32' \\"
    assert text.endswith("\n")
    assert "links" not in text
    assert resolve_universal(["app"], python="3.11") == text


def test_universal_leaves_out_what_has_no_wheel_where_it_is_wanted(links: Path) -> None:
    make_wheel(
        links, "app", "1.0", requires=["gpu-lib; platform_machine == 'ppc64le'", "gpu-lib; sys_platform == 'never'"]
    )
    make_wheel(links, "gpu-lib", "1.0", tag=NATIVE[0])
    lines = resolve_universal(["app"], python="3.11").splitlines()
    assert [line for line in lines if "==" in line] == ["app==1.0 \\"]


def test_universal_takes_constraints_and_overrides(links: Path) -> None:
    make_wheel(links, "app", "1.0", requires=["lib", "extra"])
    for version in ("1.0", "2.0"):
        make_wheel(links, "lib", version)
        make_wheel(links, "extra", version)
    text = resolve_universal(
        ["app"], python="3.11", constraints=["lib<2"], overrides=["extra==1.0; python_version < '3.12'"]
    )
    pins = [line.removesuffix(" \\") for line in text.splitlines() if "==" in line]
    assert pins == ["app==1.0", "extra==1.0 ; python_full_version < '3.12'", "lib==1.0"]


def test_universal_says_what_is_missing(links: Path) -> None:
    with pytest.raises(ResolveError, match="no configured package index has nonesuch"):
        resolve_universal(["nonesuch"], python="3.11")


def test_secrets_are_never_on_a_command_line(links: Path, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(links, "lib", "1.0")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:hunter2@example.com/simple")
    seen: list[str] = []

    def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
        seen.extend(argv)
        return run_command(argv, env=env, cwd=cwd)

    assert names(resolve_image(["lib"], facts, run=run)) == ["lib 1.0"]
    assert sys.executable in seen
    assert "hunter2" not in " ".join(seen)
