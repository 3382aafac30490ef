"""A package is a pure function of spec, lock and packager."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fakes.locks import FACTS, INGREDIENTS, VLLM, make_lock, make_spec

from packager.digest import sha256_hex
from packager.errors import PackageError
from packager.lock.lockfile import WeightsLock, parse_lock
from packager.lock.model import ModelFacts
from packager.manifest import MANIFEST_PATH, WeightsFile, WeightsManifest, parse_manifest
from packager.package.plan import LISTING, make_manifest, plan_package

ROOT = Path(__file__).parents[3]
LLAMA = {"weights": {"source": "file://model", "file": "model.gguf"}}
WHOLE = {
    **LLAMA,
    "description": 'Says "hello": {braces}, # and ünïcode',
    "hardware": {"gpu": "a100-40gb", "count": 2},
    "image": {"env": {"B": "2", "A": "1"}, "labels": {"z": "1", "a": "2"}, "system_packages": ["libnuma1"]},
}


def planned(spec, **lock):
    return plan_package(spec, make_lock(spec, **lock), INGREDIENTS)


def config(spec, **lock):
    return yaml.safe_load(planned(spec, **lock).files["config.yaml"])


class TestPurity:
    def test_the_same_again(self):
        assert planned(make_spec(**WHOLE)) == planned(make_spec(**WHOLE))

    def test_the_order_of_mappings_does_not_count(self):
        spec = make_spec(**WHOLE)
        image = WHOLE["image"] | {"env": {"A": "1", "B": "2"}, "labels": {"a": "2", "z": "1"}}
        other = make_spec(**{**dict(reversed(WHOLE.items())), "image": image})
        lock = make_lock(spec)
        shuffled = replace(
            lock,
            inputs=dict(reversed(lock.inputs.items())),
            facts=replace(FACTS, installed=dict(reversed(FACTS.installed.items()))),
        )
        ingredients = replace(
            INGREDIENTS,
            templates=dict(reversed(INGREDIENTS.templates.items())),
            runtime=dict(reversed(INGREDIENTS.runtime.items())),
        )
        one, two = plan_package(spec, lock, INGREDIENTS), plan_package(other, shuffled, ingredients)
        assert one == two
        assert list(one.files.items()) == list(two.files.items())

    def test_the_process_does_not_count(self):
        script = (
            "from fakes.locks import *; from packager.package.plan import plan_package\n"
            f"spec = make_spec(**{WHOLE!r}); plan = plan_package(spec, make_lock(spec), INGREDIENTS)\n"
            "import sys; sys.stdout.buffer.write(b''.join(plan.files.values()))"
        )
        found = set()
        for seed, zone, locale in (("0", "UTC", "C"), ("77", "Asia/Tokyo", "C.UTF-8")):
            env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale}
            env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
            found.add(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout)
        assert found == {b"".join(planned(make_spec(**WHOLE)).files.values())}

    @pytest.mark.parametrize("fields", [LLAMA, {**WHOLE, "name": "other"}])
    def test_the_spec_counts(self, fields):
        assert planned(make_spec(**fields)).files != planned(make_spec(**WHOLE)).files


class TestFiles:
    def test_the_listing_names_every_other_file(self):
        found = planned(make_spec(**WHOLE))
        lines = found.files[LISTING].decode().splitlines()
        assert lines == sorted(lines, key=lambda line: line.partition("  ")[2])
        listed = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
        expected = {path: sha256_hex(data) for path, data in found.files.items() if path != LISTING}
        expected |= {"data/model.gguf": "a" * 64, "data/tokenizer.json": "b" * 64}
        assert listed == expected

    def test_manifest_and_lock_are_read_back(self):
        spec = make_spec(**WHOLE)
        found = planned(spec)
        assert parse_lock(found.files["packager.lock"], where="") == make_lock(spec)
        manifest = parse_manifest(json.loads(found.files[MANIFEST_PATH]), where="")
        assert manifest == make_manifest(spec, make_lock(spec), INGREDIENTS.version)
        assert manifest.weights.entry == "model.gguf"
        assert manifest.image.env["NVIDIA_VISIBLE_DEVICES"] == "all"

    def test_a_folder_of_weights_with_adapters(self):
        spec = make_spec(**VLLM)
        found = planned(spec)
        assert [planned.path for planned in found.weights] == [
            "data/config.json",
            "data/model.safetensors",
            "data/adapters/tuned/adapter_config.json",
            "data/adapters/tuned/adapter_model.safetensors",
        ]
        assert f"{'f' * 64}  data/adapters/tuned/adapter_model.safetensors\n" in found.files[LISTING].decode()
        manifest = parse_manifest(json.loads(found.files[MANIFEST_PATH]), where="")
        assert manifest == make_manifest(spec, make_lock(spec), INGREDIENTS.version)
        assert manifest.weights.entry == manifest.adapters["tuned"].entry == "."
        assert "LoRA adapters, each by its name: tuned." in found.files["README.md"].decode()

    def test_adapters_ship_as_the_weights_do(self):
        weights = {"source": "file:///m", "ship": "on_load", "adapters": [{"name": "a", "source": "file:///lora"}]}
        found = planned(make_spec(**VLLM | {"weights": weights}))
        assert found.weights == ()
        adapter = parse_manifest(json.loads(found.files[MANIFEST_PATH]), where="").adapters["a"]
        assert (adapter.ship, adapter.source) == ("on_load", "file:///lora")

    def test_the_container_is_told_what_code_is_trusted(self):
        weights = {"source": "file://m", "trusted_code": {"b.py": "b" * 64, "a.py": "a" * 64}}
        spec = make_spec(**VLLM | {"weights": weights})
        assert make_manifest(spec, make_lock(spec), "1").weights.trusted_code == ("a.py", "b.py")

    def test_weights_that_are_quantized_already_are_taken_as_they_are(self):
        """The spec's word says what they are, and brings what they need; the engine is to do nothing to them."""
        spec = make_spec(**VLLM, quantization="nf4")
        lock = make_lock(spec)
        assert make_manifest(spec, lock, "1").engine.quantization == "nf4"
        saved = replace(lock, weights=replace(lock.weights, model=ModelFacts(quantization="bitsandbytes:nf4")))
        assert make_manifest(spec, saved, "1").engine.quantization == "none"

    def test_weights_that_are_fetched_on_load_are_not_planned(self):
        spec = make_spec(weights={"source": "file:///models/x", "file": "model.gguf", "ship": "on_load"})
        found = planned(spec)
        assert found.weights == ()
        assert "data/" not in found.files[LISTING].decode()

    def test_the_entry_is_the_file_that_the_engine_can_open(self):
        spec = make_spec(weights={"source": "file://model"})
        assert make_manifest(spec, make_lock(spec), "1").weights.entry == "model.gguf"

    def test_the_chat_template_stands_beside_the_manifest(self):
        spec = make_spec(weights={"source": "file://model", "chat_template": "chat/my.jinja"})
        found = plan_package(spec, make_lock(spec), replace(INGREDIENTS, chat_template=b"{{ messages }}"))
        assert found.files["model/chat_template.jinja"] == b"{{ messages }}"
        assert json.loads(found.files[MANIFEST_PATH])["chat_template"] == "chat_template.jinja"

    def test_no_text_file_lacks_its_last_newline(self):
        for path, data in planned(make_spec(**WHOLE)).files.items():
            assert not data or data.endswith(b"\n"), path

    def test_requirements_are_the_locks(self):
        assert (
            planned(make_spec()).files["requirements.txt"] == b"alpha==1.0 \\\n    --hash=sha256:" + b"c" * 64 + b"\n"
        )


class TestTruss:
    @pytest.mark.parametrize(
        ("hardware", "resources"),
        [
            ({}, {}),
            ({"gpu": "a100-40gb", "count": 2}, {"accelerator": "A100_40GB:2"}),
            ({"gpu": "a100-80gb"}, {"accelerator": "A100:1"}),
            ({"gpu": "l4"}, {"accelerator": "L4:1"}),
            ({"gpu": "rtx-pro-6000"}, {"accelerator": "RTX_PRO_6000:1"}),
            ({"gpu": "mi300x"}, {}),
        ],
    )
    def test_gpus_by_truss_own_names(self, hardware, resources):
        assert config(make_spec(hardware=hardware))["resources"] == resources

    @pytest.mark.parametrize(
        ("python", "named"), [("3.11.2", "py311"), ("3.13.0rc1", "py313"), ("3.15.0", "py314"), ("3.20.1", "py314")]
    )
    def test_a_python_that_truss_has(self, python, named):
        assert config(make_spec(), facts=replace(FACTS, python=python))["python_version"] == named

    def test_description_and_environment(self):
        found = config(make_spec(**WHOLE))
        assert found["description"] == WHOLE["description"]
        assert found["environment_variables"] == {"A": "1", "B": "2"}
        assert "libnuma1" in found["system_packages"]


class TestBuildsForCpu:
    """What common indexes lack is said where people install from them."""

    LINES = (
        "torch==2.13.0 ; sys_platform == 'darwin' \\",
        "torch==2.13.0+cpu ; sys_platform == 'linux' \\",
        "    --hash=sha256:0",
    )

    def test_the_readme_and_the_dockerfile_say_where_from(self):
        files = planned(make_spec(), requirements=self.LINES).files
        assert "Common package indexes lack torch==2.13.0+cpu: point pip at" in files["README.md"].decode()
        dockerfile = files["Dockerfile"].decode()
        assert "# The index that has torch==2.13.0+cpu: --build-arg UV_INDEX=URL\nARG UV_INDEX\nRUN" in dockerfile
        assert '"--index-strategy", "unsafe-best-match", "--require-hashes"' in dockerfile

    def test_without_them_nothing_is_said(self):
        files = planned(make_spec()).files
        assert b"CPU" not in files["README.md"]
        assert b"UV_INDEX" not in files["Dockerfile"]


class TestDockerfile:
    def test_it_starts_what_the_manifest_says(self):
        text = planned(make_spec(serving={"server": "standalone", "port": 8080})).files["Dockerfile"].decode()
        entry = json.loads(text.rpartition("ENTRYPOINT ")[2])
        assert entry[1:5] == ["-m", "packager_runtime.runtime", "serve", "/app"]
        assert entry[-1] == "8080"
        assert "EXPOSE 8080\n" in text

    def test_values_of_the_environment_are_quoted(self):
        text = planned(make_spec(image={"env": {"A": 'say "hi" \\ for $5 ünd'}})).files["Dockerfile"].decode()
        assert 'ENV A="say \\"hi\\" \\\\ for \\$5 ünd"\n' in text


ELSEWHERE = {
    "engine": {"kind": "vllm"},
    "weights": {
        "source": "hf://ada/model",
        "ship": "on_load",
        "adapters": [{"name": "tuned", "source": "s3://models/lora"}],
    },
    "hardware": {"gpu": "l4"},
}
TOKENIZER = (WeightsFile("tokenizer.json", 20, "c" * 64), WeightsFile("tokenizer_config.json", 30, "d" * 64))


class TestWeightsFromElsewhere:
    def test_the_manifest_says_where_from_and_the_package_holds_none(self):
        spec = make_spec(**ELSEWHERE)
        files = (WeightsFile("config.json", 2, "a" * 64, "Y2h1bmtz"), WeightsFile("model.safetensors", 9, "b" * 64))
        lock = WeightsLock("hf://ada/model", "c0ffee", files, compiled={"schema": 1})
        plan = planned(spec, weights=lock)
        manifest = parse_manifest(json.loads(plan.files[MANIFEST_PATH]), where="manifest")
        assert plan.weights == ()
        assert manifest.weights == WeightsManifest(
            "hf://ada/model", "c0ffee", "on_load", ".", files, compiled={"schema": 1}
        )
        assert (manifest.adapters["tuned"].source, manifest.adapters["tuned"].ship) == ("s3://models/lora", "on_load")

    def test_a_tokenizer_from_elsewhere(self):
        weights = ELSEWHERE["weights"] | {"tokenizer": "s3://models/t"}
        spec = make_spec(**ELSEWHERE | {"weights": weights})
        plan = planned(spec)
        manifest = parse_manifest(json.loads(plan.files[MANIFEST_PATH]), where="manifest")
        assert manifest.tokenizer == WeightsManifest("s3://models/t", "c0ffee", "on_load", ".", TOKENIZER)
        readme = plan.files["README.md"].decode()
        assert "its weights from hf://ada/model\nand their tokenizer from s3://models/t at c0ffee into" in readme
        assert "a login, where one is needed: HF_TOKEN or AWS's usual variables and files" in readme

    def test_a_tokenizer_stands_among_the_weights(self):
        spec = make_spec(**VLLM | {"weights": {"source": "file://model", "tokenizer": "file://tokenizer"}})
        plan = planned(spec)
        paths = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        assert [one.path for one in plan.weights] == [f"data/{path}" for path in paths]
        assert f"{'c' * 64}  data/tokenizer.json\n" in plan.files[LISTING].decode()
        assert "; their tokenizer from file://tokenizer." in plan.files["README.md"].decode()

    def test_a_lock_in_which_both_have_a_file(self):
        spec = make_spec(**VLLM | {"weights": {"source": "file://model", "tokenizer": "file://tokenizer"}})
        twice = WeightsLock("file://tokenizer", "", (WeightsFile("config.json", 1, "a" * 64),))
        with pytest.raises(PackageError, match=r"the weights list 'config\.json' twice"):
            planned(spec, tokenizer=twice)

    @pytest.mark.parametrize("part", ["weights", "tokenizer", "adapters"])
    def test_names_of_a_lock_that_somebody_else_wrote(self, part):
        spec = make_spec(**ELSEWHERE)
        bad = WeightsLock("hf://ada/model", "", (WeightsFile("../../service.py", 1, "a" * 64),))
        with pytest.raises(PackageError, match=r"unsafe path '\.\./\.\./service\.py'") as caught:
            planned(spec, **{part: {"tuned": bad} if part == "adapters" else bad})
        assert caught.value.problems[0].where == "packager.lock"
