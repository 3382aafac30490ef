"""A lock answers a spec, or drift names each field that moved."""

from dataclasses import replace

import pytest
from fakes.locks import VLLM, make_lock, make_spec

from packager.lock.drift import Drift, drifted, lock_inputs, python_requirements
from packager.package.plan import make_manifest

LLAMA = {"weights": {"source": "file://model"}}
BASE = {"base": {"kind": "registry", "image": "registry.example.com/team/base:1"}}


@pytest.mark.parametrize("fields", [{}, LLAMA, {"image": BASE}])
def test_a_lock_answers_the_spec_it_was_made_of(fields):
    spec = make_spec(**fields)
    assert drifted(make_lock(spec), spec) == ()


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"engine": {"kind": "llama_cpp", "version": "2026.9.1"}}, {"engine.version"}),
        ({"quantization": "int4"}, {"quantization"}),
        ({"serving": {"server": "standalone"}}, {"serving.server"}),
        ({"image": BASE}, {"image.base"}),
        ({"image": {"base": {"kind": "debian", "suite": "trixie"}}}, {"image.base"}),
        (
            {"image": {"system_packages": ["libnuma1"]}},
            {"image.system_packages"},
        ),
        ({"image": {"python_packages": ["pillow"]}}, {"image.python_packages"}),
        ({"weights": {"source": "file://other"}}, {"weights.source"}),
        ({"weights": {"source": "hf://a/b"}}, {"weights.source"}),
        ({"weights": {"source": "file://model", "include": ["*.gguf"]}}, {"weights.include"}),
        ({"weights": {"source": "file://model", "file": "model.gguf"}}, {"weights.file"}),
    ],
)
def test_every_field_that_moved_is_named(changes, fields):
    lock = make_lock(make_spec(**LLAMA))
    assert {drift.field for drift in drifted(lock, make_spec(**{**LLAMA, **changes}))} == fields


@pytest.mark.parametrize(
    ("weights", "fields"),
    [
        ({"adapters": []}, {"weights.adapters"}),
        ({"adapters": [{"name": "tuned", "source": "file://other"}]}, {"weights.adapters"}),
        ({"adapters": [{"name": "other", "source": "file://lora"}]}, {"weights.adapters"}),
        ({"trusted_code": {"a.py": "a" * 64}}, {"weights.trusted_code"}),
    ],
)
def test_adapters_and_trusted_code_are_locked(weights, fields):
    lock = make_lock(make_spec(**VLLM))
    assert {one.field for one in drifted(lock, make_spec(**VLLM | {"weights": VLLM["weights"] | weights}))} == fields


HUB = {
    "engine": {"kind": "vllm"},
    "weights": {
        "source": "hf://a/b",
        "revision": "v1",
        "adapters": [{"name": "tuned", "source": "hf://c/d", "revision": "v2"}],
    },
}


@pytest.mark.parametrize(
    ("weights", "fields"),
    [
        ({"revision": "v2"}, {"weights.revision"}),
        ({"revision": None}, {"weights.revision"}),
        ({"source": "hf://a/b/sub"}, {"weights.source"}),
        ({"adapters": [{"name": "tuned", "source": "hf://c/d", "revision": "v3"}]}, {"weights.adapters"}),
        ({"adapters": [{"name": "tuned", "source": "hf://c/d"}]}, {"weights.adapters"}),
        ({"ship": "on_load"}, set()),
        ({"tokenizer": "hf://e/f"}, {"weights.tokenizer"}),
        ({"tokenizer": "hf://e/f", "tokenizer_revision": "v1"}, {"weights.tokenizer", "weights.tokenizer_revision"}),
    ],
)
def test_revisions_are_locked(weights, fields):
    lock = make_lock(make_spec(**HUB))
    assert drifted(lock, make_spec(**HUB)) == ()
    assert {one.field for one in drifted(lock, make_spec(**HUB | {"weights": HUB["weights"] | weights}))} == fields


@pytest.mark.parametrize(
    ("source", "adapter", "ship", "needs"),
    [
        ("s3://bucket/a", "hf://c/d", "on_load", True),
        ("hf://a/b", "s3://bucket/a", "on_load", True),
        ("s3://bucket/a", "s3://bucket/b", "in_image", False),
        ("hf://a/b", "https://a.example/c/", "on_load", False),
        ("file:///a", "file:///b", "on_load", False),
    ],
)
def test_what_the_container_needs_to_load_from_there(source, adapter, ship, needs):
    """It is a requirement of the lock, so that a lock without it does not answer the spec."""
    adapters = [{"name": "tuned", "source": adapter}]
    spec = make_spec(engine={"kind": "vllm"}, weights={"source": source, "adapters": adapters, "ship": ship})
    assert any(one.startswith("botocore") for one in python_requirements(spec)) is needs
    other = make_spec(engine={"kind": "vllm"}, weights={"source": source, "adapters": adapters})
    assert {one.field for one in drifted(make_lock(other), spec)} == ({"packager.requirements"} if needs else set())


def test_a_tokenizers_source_counts_too():
    weights = {"source": "hf://a/b", "tokenizer": "s3://bucket/a", "ship": "on_load"}
    assert any(
        one.startswith("botocore") for one in python_requirements(make_spec(engine={"kind": "vllm"}, weights=weights))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"description": "Another"},
        {"serving": {"port": 8080, "max_concurrency": 1, "max_queue": 0, "drain_seconds": 1}},
        {"engine": {"kind": "llama_cpp", "context_length": 512, "threads": 2}},
        {"image": {"tag": "v2", "repository": "registry.example.com/team", "env": {"A": "b"}, "labels": {"c": "d"}}},
        {"weights": {"source": "file://model", "chat_template": "chat.jinja"}},
    ],
)
def test_what_the_lock_does_not_decide_is_free(changes):
    lock = make_lock(make_spec(**LLAMA))
    assert drifted(lock, make_spec(**{**LLAMA, **changes})) == ()


def test_another_gpu_is_free_and_the_first_one_is_not():
    """Which GPU decides no byte; whether there is one decides which build of torch is locked."""
    lock = make_lock(make_spec(**LLAMA, hardware={"gpu": "l4"}))
    assert drifted(lock, make_spec(**LLAMA, hardware={"gpu": "a100-40gb", "count": 2})) == ()
    assert drifted(lock, make_spec(**LLAMA)) == (Drift("hardware", "gpu", "cpu"),)


def test_another_order_in_the_spec_is_no_drift():
    one = make_spec(image={"python_packages": ["pillow", "einops"], "system_packages": ["curl", "git"]})
    other = make_spec(image={"python_packages": ["einops", "pillow"], "system_packages": ["git", "curl"]})
    assert drifted(make_lock(one), other) == ()


@pytest.mark.parametrize("name", lock_inputs(make_spec()))
def test_a_newer_packager_that_asks_more_or_other_is_drift(name):
    """Each input counts, whether it is gone from the lock or another one."""
    spec = make_spec()
    lock = make_lock(spec)
    moved = replace(lock, inputs={**lock.inputs, name: "something else"})
    assert [drift.field for drift in drifted(moved, spec)] == [name]


def test_what_packager_makes_of_the_spec_is_named_where_the_spec_did_not_move():
    spec = make_spec()
    lock = make_lock(spec)
    moved = replace(lock, inputs={**lock.inputs, "packager.requirements": ["uvicorn"], "packager.layer_format": 0})
    assert [drift.field for drift in drifted(moved, spec)] == ["packager.layer_format", "packager.requirements"]
    assert [drift.field for drift in drifted(moved, make_spec(quantization="int8"))] == ["quantization"]


def test_an_input_that_packager_no_longer_asks():
    lock = make_lock(make_spec())
    old = replace(lock, inputs={**lock.inputs, "packager.epoch": 1})
    assert drifted(old, make_spec()) == (Drift("packager.epoch", 1, None),)


@pytest.mark.parametrize(
    ("drift", "words"),
    [
        (Drift("quantization", "none", "int4"), "quantization: locked none, the spec now says int4"),
        (Drift("weights.file", None, "a.gguf"), "weights.file: locked nothing, the spec now says a.gguf"),
        (
            Drift("image.base", {"kind": "debian", "suite": None}, None),
            "image.base: locked {kind: debian}, the spec now says nothing",
        ),
        (Drift("packager.layer_format", 1, 2), "packager.layer_format: locked 1, packager now says 2"),
        (Drift("image.python_packages", ["a", "b"], ["b", "c"]), "image.python_packages: the spec adds c, drops a"),
        (Drift("weights.include", None, ["*.gguf"]), "weights.include: locked nothing, the spec now says [*.gguf]"),
    ],
)
def test_words(drift, words):
    assert str(drift) == words


def test_what_the_spec_says_of_an_engine_is_locked():
    said = {"gpu": "NVIDIA A10G", "sm": "8.6", "memory_mib": 23028}
    said |= {"tensorrt": "10.14.1.48", "cuda": "13.0", "driver": "580.95.05"}
    engine = {"kind": "tensorrt_llm_engine"}
    base = {"kind": "registry", "image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}
    rest = {"hardware": {"gpu": "a10g"}, "image": {"base": base}, **LLAMA}
    plain, with_it = make_spec(engine=engine, **rest), make_spec(engine=engine | {"built_for": said}, **rest)
    assert "engine.built_for" not in lock_inputs(plain)
    assert {one.field for one in drifted(make_lock(with_it), plain)} == {"engine.built_for"}
    assert {one.field for one in drifted(make_lock(plain), with_it)} == {"engine.built_for"}
    other = make_spec(engine=engine | {"built_for": said | {"sm": "8.9"}}, **rest)
    assert {one.field for one in drifted(make_lock(with_it), other)} == {"engine.built_for"}
    assert (
        "built_for" not in make_manifest(with_it, make_lock(with_it), "1").engine.options
    )  # the lock has what it says
