"""Which LoRA adapters an engine is locked with: what it would refuse after it has loaded the model is refused here."""

import json
from typing import Any

import pytest

from packager.errors import SpecError
from packager.lock.lora import check_adapter
from packager.lock.weights import lock_adapters
from packager.spec.load import SpecFile, load_spec

PLAIN = {
    "peft_type": "LORA",
    "r": 16,
    "bias": "none",
    "modules_to_save": None,
    "use_dora": False,
    "target_modules": ["q_proj"],
}


@pytest.fixture
def file(tmp_path) -> SpecFile:
    (tmp_path / "packager.yaml").write_text(
        "name: hello\nengine: {kind: vllm}\nweights:\n  source: file://model\n"
        "  adapters: [{name: tuned, source: file://lora}]\n"
    )
    return load_spec(tmp_path)


def problems(file: SpecFile, said: Any) -> list[tuple[str, str]]:
    found = check_adapter(file, 0, json.dumps(said).encode())
    return [(one.what, one.mend) for one in found]


@pytest.mark.parametrize("said", [PLAIN, {}, PLAIN | {"rank_pattern": {"q_proj": 16}}, PLAIN | {"r": "16"}])
def test_plain_lora_is_served(file, said):
    assert problems(file, said) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"peft_type": "IA3"}, "IA3 of PEFT"),
        (PLAIN | {"use_dora": True}, "DoRA"),
        (PLAIN | {"modules_to_save": ["lm_head"]}, "LoRA with whole modules beside it (`modules_to_save`)"),
        (PLAIN | {"bias": "all"}, "LoRA that trains biases (`bias: all`)"),
    ],
)
def test_other_kinds_are_refused(file, said, words):
    mend = "merge it into the weights, or train a plain LoRA"
    assert problems(file, said) == [(f"the engine vllm serves no {words}, which the adapter tuned is", mend)]


@pytest.mark.parametrize(
    ("said", "rank", "mend"),
    [
        ({"r": 17}, 17, "write `engine.max_lora_rank: 32`"),
        ({"r": 8, "rank_pattern": {"q_proj": 64}}, 64, "write `engine.max_lora_rank: 64`"),
        ({"r": 1024}, 1024, "merge it into the weights: no engine takes such a rank"),
    ],
)
def test_a_rank_above_the_engines(file, said, rank, mend):
    assert problems(file, PLAIN | said) == [(f"the adapter tuned has rank {rank}, and `max_lora_rank` is 16", mend)]


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000])
def test_a_configuration_that_is_not_json(file, data):
    (found,) = check_adapter(file, 0, data)
    assert found.what.startswith("adapter_config.json of the adapter tuned is not JSON: ")


def test_adapters_are_judged_when_they_are_locked(file, tools):
    (file.folder / "lora").mkdir()
    (file.folder / "lora/adapter_config.json").write_text(json.dumps(PLAIN | {"r": 64}))
    (file.folder / "lora/adapter_model.safetensors").write_bytes(b"lora")
    with pytest.raises(SpecError) as caught:
        lock_adapters(file, tools)
    (problem,) = caught.value.problems
    assert problem.where == f"{file.where('engine')}"
    assert problem.mend == "write `engine.max_lora_rank: 64`"
