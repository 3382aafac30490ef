"""engine.json in the lock: it must agree with the listing and with TensorRT-LLM's own config.json."""

import json

import pytest
from fakes.compiled import TENSORRT, config, description, put, write_engine

from packager.digest import hash_file
from packager.errors import SpecError
from packager.lock.compiled import lock_compiled, read_config
from packager.spec.engine import BuiltForSpec
from packager.weights.compiled import Limits, Parallel
from packager.weights.file import FileSource
from packager.weights.source import SourceFile


def describe(folder, **changed):
    """engine.json of the folder, as `packager engine describe` would write it."""
    split = json.loads((folder / "config.json").read_text())["pretrained_config"]["mapping"]
    value = description(split["world_size"])
    value["files"] = {}
    for path in sorted(folder.iterdir()):
        if path.name != "engine.json":
            sha256, size = hash_file(path)
            value["files"][path.name] = {"sha256": sha256, "size": size}
    for place, one in changed.items():
        put(value, place.replace("__", "."), one)
    (folder / "engine.json").write_text(json.dumps(value))
    return value


def lock(folder, *, known=False, drop=(), extra=()):
    source = FileSource(folder)
    listed = [one for one in source.inventory() if one.path not in drop]
    if known:
        listed = [SourceFile(one.path, one.size, hash_file(folder / one.path)[0]) for one in listed]
    return lock_compiled(source, [*listed, *extra], "packager.yaml:4:11")


def refused(folder, **options):
    with pytest.raises(SpecError) as caught:
        lock(folder, **options)
    assert {problem.where for problem in caught.value.problems} == {"packager.yaml:4:11"}
    assert all(problem.mend for problem in caught.value.problems)
    return [problem.what for problem in caught.value.problems]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_engine_that_is_described(tmp_path, known, world_size):
    value = describe(write_engine(tmp_path, world_size))
    (tmp_path / "README.md").write_text("written later")
    assert lock(tmp_path, known=known) == value


def test_weights_that_are_no_engine(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert lock(tmp_path) is None


@pytest.mark.parametrize("name", ["rank0.engine", "model.plan"])
def test_an_engine_that_nothing_describes(tmp_path, name):
    (tmp_path / name).write_bytes(b"plan")
    with pytest.raises(SpecError) as caught:
        lock(tmp_path)
    (problem,) = caught.value.problems
    assert problem.what == f"{name} is a compiled engine, and no engine.json says what it was compiled with and for"
    assert "`packager engine describe FOLDER`" in problem.mend
    assert "weights.include" in problem.mend


def test_an_engine_in_a_folder_within(tmp_path):
    describe(write_engine(tmp_path / "trt/a100"))
    with pytest.raises(SpecError) as caught:
        lock(tmp_path)
    assert caught.value.problems[0].mend == "name the folder within: trt/a100"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "engine.json is damaged: "),
        (b"[]", "engine.json is damaged: it has schema null"),
        (b'{"schema": 3}', "engine.json is damaged: it has schema 3"),
        (b"[" * 100_000, "engine.json is damaged: it is nested too deep"),
        (b" " * 1_048_577, "engine.json has 1048577 bytes, which no description of an engine has"),
    ],
)
def test_a_damaged_description(tmp_path, data, said):
    write_engine(tmp_path)
    (tmp_path / "engine.json").write_bytes(data)
    (found,) = refused(tmp_path)
    assert found.startswith(said)


def test_a_missing_rank(tmp_path):
    describe(write_engine(tmp_path, 2))
    assert refused(tmp_path, drop=["rank1.engine"]) == ["rank1.engine is missing, and engine.json lists it"]


def test_a_rank_of_another_size_and_one_too_many(tmp_path):
    describe(write_engine(tmp_path))
    (tmp_path / "rank0.engine").write_bytes(b"cut")
    assert refused(tmp_path, extra=[SourceFile("rank1.engine", 1)]) == [
        "rank0.engine has 3 bytes, and engine.json says 14",
        "rank1.engine is a compiled engine that engine.json does not describe",
    ]


def test_a_rank_with_other_bytes_of_the_same_size(tmp_path):
    describe(write_engine(tmp_path))
    (tmp_path / "rank0.engine").write_bytes(b"PLAN of rank 0")
    lock(tmp_path)  # nobody has read it
    (found,) = refused(tmp_path, known=True)
    assert found.startswith("rank0.engine has the sha256 ")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("tensorrt_llm", "1.2.0", 'engine.json says tensorrt_llm "1.2.0", and config.json says "1.2.1"'),
        ("limits.max_seq_len", 8192, "engine.json says limits.max_seq_len 8192, and config.json says 4096"),
        ("dtype", "float16", 'engine.json says dtype "float16", and config.json says "bfloat16"'),
        ("quant_algo", "FP8", 'engine.json says quant_algo "FP8", and config.json says null'),
        ("kv_cache_quant_algo", "INT8", 'engine.json says kv_cache_quant_algo "INT8", and config.json says null'),
        ("lora", True, "engine.json says lora true, and config.json says false"),
    ],
)
def test_what_config_json_contradicts(tmp_path, place, value, said):
    describe(write_engine(tmp_path), **{place.replace(".", "__"): value})
    assert refused(tmp_path) == [said]


def test_another_split_than_config_json_has(tmp_path):
    describe(write_engine(tmp_path, 2), mapping={"world_size": 2, "tp": 1, "pp": 2, "cp": 1})
    assert refused(tmp_path) == [
        "engine.json says mapping.tp 1, and config.json says 2",
        "engine.json says mapping.pp 2, and config.json says 1",
    ]


def test_a_config_json_of_something_else(tmp_path):
    (write_engine(tmp_path) / "config.json").write_text('{"architectures": []}')
    value = description()
    (tmp_path / "engine.json").write_text(json.dumps(value))
    assert "config.json is not TensorRT-LLM's: version is missing" in refused(tmp_path)


def test_what_config_json_says():
    found = read_config(json.dumps(config(4, pretrained_config__quantization__quant_algo="W8A16")).encode())
    assert (found.tensorrt_llm, found.dtype, found.quant_algo, found.lora) == ("1.2.1", "bfloat16", "W8A16", False)
    assert found.mapping == Parallel(4, 4, 1, 1)
    assert found.limits == Limits(16, 4096, 4096, 8192, 1)


def test_how_long_a_prompt_an_engine_takes():
    """trtllm-build writes its default of 1024 where nobody chose, and says that it ignores it (builder.py
    _init_max_seq_len): packed inputs are as long as a step, but for engines without fused attention."""

    def longest(**changed):
        return read_config(json.dumps(config(**changed)).encode()).limits.max_input_len

    assert longest(build_config__max_input_len=1024) == 4096
    assert longest(build_config__max_input_len=1024, build_config__max_num_tokens=3000) == 3000
    assert longest(build_config__plugin_config__context_fmha=False) == 2048
    assert longest(build_config__plugin_config__remove_input_padding=False) == 2048


def test_a_description_may_say_that_prompts_are_shorter(tmp_path):
    write_engine(tmp_path)
    for most in (1024, 4096):
        describe(tmp_path, limits__max_input_len=most)
        assert lock(tmp_path)["limits"]["max_input_len"] == most
    describe(tmp_path, limits__max_input_len=4097)
    assert refused(tmp_path) == ["engine.json says limits.max_input_len 4097, and config.json says 4096"]


@pytest.mark.parametrize("lora", ["auto", "float16"])
def test_an_engine_with_lora(lora):
    assert read_config(json.dumps(config(build_config__plugin_config__lora_plugin=lora)).encode()).lora


def test_versions_that_knew_no_context_parallelism():
    assert read_config(json.dumps(config(pretrained_config__mapping__cp_size=...)).encode()).mapping.cp == 1


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("version", ..., "version is missing"),
        ("version", 1, "version cannot be 1"),
        ("pretrained_config", ..., "pretrained_config.mapping.world_size is missing"),
        ("pretrained_config.mapping", [], "pretrained_config.mapping.world_size is missing"),
        ("pretrained_config.mapping.tp_size", "2", 'pretrained_config.mapping.tp_size cannot be "2"'),
        ("pretrained_config.mapping.pp_size", 0, "pretrained_config.mapping.pp_size cannot be 0"),
        ("pretrained_config.mapping.tp_size", 2, "pretrained_config.mapping.world_size cannot be 1"),
        ("pretrained_config.mapping.cp_size", True, "pretrained_config.mapping.cp_size cannot be true"),
        ("pretrained_config.dtype", ..., "pretrained_config.dtype is missing"),
        ("pretrained_config.quantization.quant_algo", {}, "pretrained_config.quantization.quant_algo cannot be {}"),
        ("build_config.max_seq_len", None, "build_config.max_seq_len is missing"),
        ("build_config.max_seq_len", 2**40 + 1, "build_config.max_seq_len cannot be 1099511627777"),
    ],
)
def test_a_config_json_that_is_off(place, value, said):
    with pytest.raises(ValueError, match="^" + said.replace("{}", r"\{\}").replace(".", r"\.") + "$"):
        read_config(json.dumps(config(**{place.replace(".", "__"): value})).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_no_config_json_at_all(data):
    with pytest.raises(ValueError):
        read_config(data)


class TestBuiltFor:
    """An engine from elsewhere, of which the spec says what only the machine knew that compiled it."""

    SAID = BuiltForSpec(
        gpu="NVIDIA A100-SXM4-40GB", sm="8.0", memory_mib=40960, tensorrt=TENSORRT, cuda="13.0", driver="580.95.05"
    )

    def lock(self, folder, *, known=False):
        files = FileSource(folder).inventory()
        if known:
            files = [SourceFile(one.path, one.size, hash_file(folder / one.path)[0]) for one in files]
        return lock_compiled(FileSource(folder), files, "packager.yaml:4:11", self.SAID)

    @pytest.mark.parametrize("world_size", [1, 2])
    def test_it_is_described_as_on_that_machine(self, tmp_path, world_size):
        (write_engine(tmp_path, world_size) / "README.md").write_text("a model card")
        found = self.lock(tmp_path, known=True)
        own = describe(tmp_path) | {"driver_build": "580.95.05", "cuda": "13.0", "image": None, "source_model": None}
        own["gpu"] |= {"name": "NVIDIA A100-SXM4-40GB", "memory_mib": 40960, "count": world_size}
        own["tokenizer_sha256"] = own["files"]["tokenizer.json"]["sha256"]
        own["limits"]["max_input_len"] = 4096  # what the engine takes
        del own["files"]["README.md"]
        assert found == own

    def test_what_no_source_knows_is_hashed_later(self, tmp_path):
        write_engine(tmp_path)
        before, after = self.lock(tmp_path), self.lock(tmp_path, known=True)
        assert before["limits"] == after["limits"]
        assert after["files"]["rank0.engine"]["sha256"] == hash_file(tmp_path / "rank0.engine")[0]

    def test_one_description_is_enough(self, tmp_path):
        describe(write_engine(tmp_path))
        with pytest.raises(
            SpecError, match=r"`engine.built_for` describes an engine that has an engine\.json"
        ) as caught:
            self.lock(tmp_path)
        assert "remove `engine.built_for`" in caught.value.problems[0].mend

    def test_a_rank_that_is_missing(self, tmp_path):
        (write_engine(tmp_path, 2) / "rank1.engine").unlink()
        with pytest.raises(SpecError, match=r"the engine is not whole: files\.rank1\.engine is missing"):
            self.lock(tmp_path)

    def test_a_configuration_of_something_else(self, tmp_path):
        (write_engine(tmp_path) / "config.json").write_text("{}")
        with pytest.raises(SpecError, match=r"config\.json is not TensorRT-LLM's: version is missing"):
            self.lock(tmp_path)

    def test_an_engine_without_its_configuration(self, tmp_path):
        (write_engine(tmp_path) / "config.json").unlink()
        with pytest.raises(SpecError, match=r"no engine\.json says"):
            self.lock(tmp_path)
