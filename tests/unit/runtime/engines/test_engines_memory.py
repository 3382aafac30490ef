from pathlib import Path

import pytest

from packager.runtime.engines.memory import free_memory

GIB = 2**30


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(
        "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total: 0\n"
    )
    return path


def cgroup(folder: Path, limit: str, used: int, cached: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\nfile {cached}\n")
    return folder


def test_the_machine_says_what_is_available(meminfo: Path, tmp_path: Path) -> None:
    assert free_memory(meminfo, tmp_path / "none") == 8 * GIB
    assert free_memory(meminfo, cgroup(tmp_path, "max", GIB, 0)) == 8 * GIB


def test_a_containers_limit_counts_and_cached_files_do_not(meminfo: Path, tmp_path: Path) -> None:
    assert free_memory(meminfo, cgroup(tmp_path, str(4 * GIB), 3 * GIB, GIB)) == 2 * GIB
    assert free_memory(meminfo, cgroup(tmp_path, str(GIB), 2 * GIB, 0)) == 0


def test_this_machine_has_some() -> None:
    assert free_memory() > 0
