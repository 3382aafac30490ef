"""The spec's words and a request's sampling in TensorRT-LLM's words."""

import pytest

from packager.errors import RequestError
from packager.runtime.engine import SamplingParams
from packager.runtime.engines.tensorrt_llm_options import (
    COMPILED_SAMPLING,
    PYTORCH_SAMPLING,
    TensorrtOptions,
    sampling_words,
)
from packager.spec.engine import TensorrtLlmEngineSpec, TensorrtLlmSpec


def words(can=COMPILED_SAMPLING, room=100, ends=(2, 7), **asked):
    return sampling_words(SamplingParams(**asked), room, ends, can)


@pytest.mark.parametrize("form", [TensorrtLlmEngineSpec, TensorrtLlmSpec])
def test_the_options_are_the_specs(form):
    """Name by name, with the same defaults."""
    spec = form(kind=form.model_fields["kind"].annotation.__args__[0]).model_dump(
        exclude={"kind", "version", "built_for"}
    )
    ours = TensorrtOptions()
    assert spec == {name: getattr(ours, name) for name in ours.__slots__}


def test_it_is_greedy_unless_asked():
    greedy = {"end_id": 2, "pad_id": 2, "stop_token_ids": [7], "max_tokens": 100, "detokenize": False, "top_k": 1}
    assert words() == words(temperature=0, top_k=5) == words(top_p=0, temperature=1) == greedy
    assert words(seed=3) == greedy


def test_a_temperature_alone_samples():
    """TensorRT-LLM is greedy without top_k and top_p, whatever the temperature."""
    said = words(temperature=0.7, seed=3)
    assert (said["temperature"], said["top_k"], said["top_p"], said["seed"]) == (0.7, None, 1.0, 3)
    assert words(top_k=0, top_p=0.5)["top_k"] is None
    assert words(min_p=0.1)["min_p"] == 0.1


def test_each_request_draws_its_own_seed():
    """TensorRT-LLM's default is 0 for all."""
    assert words(temperature=1)["seed"] != words(temperature=1)["seed"]
    assert words(temperature=1, seed=-1)["seed"] == 2**64 - 1
    assert "seed" not in words(PYTORCH_SAMPLING, temperature=1)


def test_ends_and_limits():
    assert words(max_tokens=5)["max_tokens"] == 5
    assert words(max_tokens=500)["max_tokens"] == 100
    assert words(ends=(2,))["stop_token_ids"] is None
    endless = words(ignore_eos=True)
    assert (endless["end_id"], endless["stop_token_ids"]) == (-1, None)


def test_penalties_are_passed_on():
    said = words(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.1)
    assert (said["presence_penalty"], said["frequency_penalty"], said["repetition_penalty"]) == (0.5, 0.25, 1.1)


def test_more_than_it_can_sample_from():
    with pytest.raises(RequestError, match="1024 tokens at most"):
        words(top_k=1025)
