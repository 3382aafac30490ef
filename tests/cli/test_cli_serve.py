"""`packager serve` where it cannot serve."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.cli import environment
from fakes.packages import make_package

from packager.cli.app import main


def python(*argv: str | Path, cache: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, env=environment(cache), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_no_port(tmp_path: Path, port, capsys) -> None:
    assert main(["serve", str(tmp_path), "--port", port]) == 2
    assert "'--port'" in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, capsys) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(package), "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: 127.0.0.1:{port}: cannot listen: Address already in use")
    assert said.endswith("\n  mend: choose another --host or --port\n")


def test_a_host_that_is_no_name(tmp_path: Path, capsys) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    assert main(["serve", str(package), "--host", "a..b", "--port", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: a..b:0: cannot listen: ")


def test_a_terminal_that_is_closed_ends_it_at_once(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    command = [sys.executable, "-m", "packager", "serve", str(package), "--port", "0"]
    with subprocess.Popen(command, env=environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True) as process:
        next(line for line in process.stderr if '"ready"' in line)
        process.send_signal(signal.SIGHUP)
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGHUP


def test_a_package_that_serves_itself_refuses_a_port_too(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    done = python("-m", "packager.runtime", "serve", package, "--port", "65536", cache=tmp_path / "cache")
    assert done.returncode == 2
    assert "error: 127.0.0.1:65536: cannot listen: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_without_the_server(tmp_path: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from packager.cli.app import main; sys.exit(main(sys.argv[1:]))"
    package = make_package(tmp_path / "package", vendored=False)
    done = python("-c", code, "serve", package, cache=tmp_path / "cache")
    assert done.returncode == 1
    assert "serving needs the Python module 'uvicorn', which is not installed" in done.stderr
    assert "mend: pip install 'llm-packager[serve]'" in done.stderr


def test_a_file_is_no_package(tmp_path: Path, capsys) -> None:
    (tmp_path / "packager.yaml").write_text("name: hello\n")
    assert main(["serve", str(tmp_path / "packager.yaml")]) == 1
    assert "packager.yaml/model/manifest.json: this folder is not a package" in capsys.readouterr().err


def test_a_manifest_that_cannot_be_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "model" / "manifest.json").mkdir(parents=True)
    assert main(["serve", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {tmp_path}/model/manifest.json: the manifest cannot be read: Is a directory\n  mend: "
    )
