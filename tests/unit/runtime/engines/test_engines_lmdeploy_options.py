import pytest
from fakes.engines import make_setup

from packager.errors import LoadError
from packager.runtime.engines import read_options
from packager.runtime.engines.lmdeploy_options import LmdeployOptions, config_words
from packager.spec.engine import LmdeploySpec


def words(**options):
    setup = make_setup(slots=7, **options)
    return config_words(setup, read_options(LmdeployOptions, setup))


def test_the_options_are_the_specs():
    """Name by name, with the same defaults."""
    spec = LmdeploySpec(kind="lmdeploy").model_dump(exclude={"kind", "version"})
    ours = LmdeployOptions()
    assert spec == {name: getattr(ours, name) for name in ours.__slots__}


def test_an_option_that_the_adapter_lacks_is_refused():
    with pytest.raises(LoadError, match="'warp'"):
        words(warp=9)


def test_what_the_spec_says_reaches_lmdeploy():
    said = words(context_length=4096, dtype="float16", tensor_parallel=4, cache_share=0.5, prefix_caching=True)
    assert (said["session_len"], said["dtype"], said["tp"]) == (4096, "float16", 4)
    assert (said["cache_max_entry_count"], said["enable_prefix_caching"]) == (0.5, True)
    assert said["max_batch_size"] == 7
    assert said["language_model_only"] is True
    assert said["enable_metrics"] is False


@pytest.mark.parametrize(
    ("asked", "policy"),
    [("auto", 0), ("int4", 4), ("int8", 8), ("fp8", 16), ("fp8_e5m2", 17), ("turbo_quant", 42)],
)
def test_the_caches_format_is_lmdeploys_number(asked, policy):
    assert words(kv_cache=asked, backend="pytorch")["quant_policy"] == policy


def test_log_probabilities_are_switched_on_where_they_are_the_models_own():
    assert words(backend="pytorch")["logprobs_mode"] == "raw_logprobs"
    assert "logprobs_mode" not in words()
