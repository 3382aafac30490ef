"""`packager engine describe`: on a machine with GPUs and TensorRT (a fake of each), and on one without."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.cli import ROOT, packager
from fakes.compiled import SOFTWARE, install, write_engine
from fakes.nvml import A10G, A100, H200, write_nvml

from packager.cli.app import load_command, main
from packager.digest import hash_file
from packager.weights.compiled import read_build


@pytest.fixture
def here(tmp_path):
    """Runs `packager engine describe` in a process that finds these GPUs and this software."""

    def run(*argv, gpus=(A100,), software=SOFTWARE, **state):
        site = tmp_path / f"site{len(list(tmp_path.iterdir()))}"
        install(site, software).mkdir(exist_ok=True)
        if gpus is not None:
            write_nvml(site, gpus, **state)
        env = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "CUDA_VERSION": "13.1.0"}
        return packager("engine", "describe", *argv, cwd=tmp_path, cache=tmp_path / "cache", env=env)

    return run


def written(folder: Path):
    return read_build((folder / "engine.json").read_bytes())


def test_an_engine_is_described(tmp_path, here):
    folder = write_engine(tmp_path / "engine", 2)
    (folder / "README.md").write_text("changes later")
    (folder / ".cache").write_text("no part of it")
    done = here(
        "engine",
        "--image",
        "example/trt:1",
        "--source-model",
        "org/model@abc",
        gpus=(A100, replace(A100, uuid="GPU-2")),
    )
    assert done.returncode == 0, done.stderr
    build = written(folder)
    assert (build.tensorrt_llm, build.tensorrt, build.cuda, build.driver_build) == (
        "1.2.1", "10.14.1.48", "13.1", "580.159.04",
    )  # fmt: skip
    assert (build.gpu.name, build.gpu.sm, build.gpu.memory_mib, build.gpu.count) == (A100.name, "8.0", 40960, 2)
    assert (build.mapping.world_size, build.limits.max_batch_size, build.dtype, build.lora) == (
        2,
        16,
        "bfloat16",
        False,
    )
    assert (build.image, build.source_model.repo, build.source_model.revision) == ("example/trt:1", "org/model", "abc")
    assert list(build.files) == ["config.json", "rank0.engine", "rank1.engine", "tokenizer.json"]
    assert all((one.sha256, one.size) == hash_file(folder / path) for path, one in build.files.items())
    assert build.tokenizer_sha256 == build.files["tokenizer.json"].sha256
    lines = done.stdout.splitlines()
    assert lines[0] == "engine    engine/engine.json"
    assert "runs on   NVIDIA A100-SXM4-40GB: compute capability 8.0, 40,960 MiB; linux-x86_64" in lines
    assert len(lines) == 7
    assert max(map(len, lines)) <= 100


def test_a_part_without_a_byte_is_no_part(tmp_path, here):
    (write_engine(tmp_path / "engine", 2) / "rank1.engine").write_bytes(b"")
    done = here("engine")
    assert done.returncode == 1
    assert "error: engine: rank1.engine is empty\n  mend: copy all that was compiled\n" in done.stderr
    assert not (tmp_path / "engine/engine.json").exists()


def test_again_is_the_same_and_another_is_kept_from(tmp_path, here):
    folder = write_engine(tmp_path / "engine")
    assert here("engine").returncode == 0
    first = (folder / "engine.json").read_bytes()
    assert here("engine").returncode == 0
    assert (folder / "engine.json").read_bytes() == first
    done = here("engine", gpus=(H200,))
    assert done.returncode == 1
    assert "engine.json: it describes something else\n  mend: --force writes it anew\n" in done.stderr
    assert (folder / "engine.json").read_bytes() == first
    assert here("engine", "--force", gpus=(H200,)).returncode == 0
    assert written(folder).gpu.sm == "9.0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "engine.json",
        "rank0.engine",
        "tokenizer.json",
    ]


def test_what_is_not_said_again_stays_while_the_files_do(tmp_path, here):
    """The way of an engine that is known to need less memory than the GPU that compiled it has."""
    folder = write_engine(tmp_path / "engine")
    (folder / "tokenizer.json").unlink()
    assert here("engine", "--image", "example/trt:1", "--source-model", "org/model@abc").returncode == 0
    first = written(folder)
    assert first.limits.max_input_len == 4096
    # As of a conversion with `weights.tokenizer` and `max_input_len`.
    first = replace(first, tokenizer_sha256="b" * 64, limits=replace(first.limits, max_input_len=3000))
    (folder / "engine.json").write_bytes(first.to_bytes())
    assert here("engine").returncode == 0
    assert here("engine", "--gpu-memory", "20000", "--force").returncode == 0
    assert written(folder) == replace(first, gpu=replace(first.gpu, memory_mib=20000))
    (folder / "rank0.engine").write_bytes(b"compiled anew")
    assert here("engine", "--image", "example/trt:2", "--force").returncode == 0
    again = written(folder)
    assert (again.image, again.source_model, again.tokenizer_sha256) == ("example/trt:2", None, None)


def test_less_memory_is_enough(tmp_path, here):
    folder = write_engine(tmp_path / "engine")
    assert here("engine", "--gpu-memory", "20000").returncode == 0
    assert written(folder).gpu.memory_mib == 20000


def test_one_of_two_kinds_of_gpu(tmp_path, here):
    folder = write_engine(tmp_path / "engine")
    done = here("engine", gpus=(A10G, A100))
    assert (
        "one kind of GPU compiled the engine; NVIDIA A100-SXM4-40GB (8.0), NVIDIA A10G (8.6) can be seen" in done.stderr
    )
    assert "CUDA_VISIBLE_DEVICES" in done.stderr
    assert "hash" not in done.stderr
    assert not (folder / "engine.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": None, "software": {}}, "no GPU driver found"),
        ({"fails": "NVMLError_DriverNotLoaded"}, "no GPU driver found"),
        ({"gpus": ()}, "one kind of GPU compiled the engine; none can be seen here"),
        ({"software": {"tensorrt_llm": "1.2.1"}}, "one TensorRT compiled the engine; none is installed here"),
        ({"software": {"tensorrt": "10.14.1.48"}}, "TensorRT-LLM 1.2.1 compiled the engine; none is installed here"),
        (
            {"software": {"tensorrt": "10.14.1.48", "tensorrt_llm": "1.2.0"}},
            "config.json: TensorRT-LLM 1.2.1 compiled the engine; 1.2.0 is installed here",
        ),
        (
            {"software": {**SOFTWARE, "tensorrt_cu12": "10.9.0.34"}},
            "one TensorRT compiled the engine; 10.14.1.48 and 10.9.0.34 is installed here",
        ),
    ],
)
def test_not_the_machine_that_compiled_it(tmp_path, here, options, said):
    folder = write_engine(tmp_path / "engine")
    done = here("engine", **options)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert not (folder / "engine.json").exists()


def test_more_memory_than_there_is(tmp_path, here):
    write_engine(tmp_path / "engine")
    done = here("engine", "--gpu-memory", "99999")
    assert "error: --gpu-memory: a GPU with 99999 MiB is asked for; the one here has 40960\n" in done.stderr


def run(capsys, *argv):
    assert main(["engine", "describe", *map(str, argv)]) == 1
    return capsys.readouterr().err


def test_a_split_over_more_than_can_be(tmp_path, capsys):
    """A name for each of its parts would take all memory."""
    config = json.loads((write_engine(tmp_path, 2) / "config.json").read_bytes())
    config["pretrained_config"]["mapping"] |= {"world_size": 2**40, "tp_size": 2**40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = run(capsys, tmp_path)
    assert f"config.json splits the engine over {2**40}, and rank2.engine is missing\n" in said
    assert said.count("error: ") <= 4


def test_every_rank_must_be_there_and_no_other(tmp_path, capsys):
    folder = write_engine(tmp_path, 3)
    (folder / "rank1.engine").rename(folder / "rank3.engine")
    (folder / "old").mkdir()
    (folder / "old/rank0.engine").write_bytes(b"")
    said = run(capsys, folder)
    assert f"error: {folder}: config.json splits the engine over 3, and rank1.engine is missing\n" in said
    assert "and rank3.engine is none of its parts\n" in said
    assert "and old/rank0.engine is none of its parts\n" in said


@pytest.mark.parametrize("name", ["nothing", "rank0.engine", "empty"])
def test_no_folder_of_an_engine(tmp_path, capsys, name):
    write_engine(tmp_path)
    (tmp_path / "empty").mkdir()
    said = run(capsys, tmp_path / name)
    assert said.startswith(f"error: {tmp_path / name}: this folder has no compiled engine\n")


def test_a_config_json_of_something_else(tmp_path, capsys):
    (write_engine(tmp_path) / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"]}))
    assert f"error: {tmp_path / 'config.json'}: it is not TensorRT-LLM's: version is missing\n" in run(capsys, tmp_path)


def test_the_command_line(capsys):
    assert main(["engine"]) == 2
    assert capsys.readouterr().err == "error: missing command\n  mend: `packager engine --help` shows how it is used\n"
    assert main(["engine", "describe", ".", "--source-model", "org/model"]) == 2
    assert "'org/model' is not REPO@REVISION" in capsys.readouterr().err
    below = load_command("engine").commands["describe"]
    assert [one.name for one in below.params].count("debug") == 1
    assert main(["engine", "describe", "--help"]) == 0
    assert "engine.json" in capsys.readouterr().out
