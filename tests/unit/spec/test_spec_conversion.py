"""`conversion`: what it says by itself, and which specs have none."""

from pathlib import Path

import pytest

from packager.errors import SpecError
from packager.spec import CalibrationSpec, ConversionSpec, MergeSpec, ModelSpec, SpecFile, dump_spec, load_spec

ENGINE = "name: x\nengine: {kind: tensorrt_llm_engine}\nweights: {source: hf://ada/engine, ship: on_load}\n"
SHA256 = "a" * 64
FULL = f"""{ENGINE}conversion:
  source: hf://ada/model
  revision: v1
  trusted_code: {{b.py: {SHA256}, a.py: {SHA256}}}
  merge: {{source: hf://ada/lora, revision: main}}
  max_batch_size: 16
  max_input_len: 2048
  max_seq_len: 4096
  max_num_tokens: 8192
  max_beam_width: 1
  calibration: {{dataset: cnn_dailymail, samples: 512, length: 2048}}
"""


def load(folder: Path, text: str) -> SpecFile:
    (folder / "packager.yaml").write_text(text)
    return load_spec(folder)


def problems(folder: Path, text: str) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return [(one.what, one.mend) for one in caught.value.problems]


def test_all_of_it(tmp_path):
    assert load(tmp_path, FULL).spec.conversion == ConversionSpec(
        source="hf://ada/model",
        revision="v1",
        trusted_code={"a.py": SHA256, "b.py": SHA256},
        merge=MergeSpec(source="hf://ada/lora", revision="main"),
        max_batch_size=16,
        max_input_len=2048,
        max_seq_len=4096,
        max_num_tokens=8192,
        calibration=CalibrationSpec(dataset="cnn_dailymail", samples=512, length=2048),
    )


def test_a_source_is_enough(tmp_path):
    asked = load(tmp_path, f"{ENGINE}conversion: {{source: hf://ada/model}}\n").spec.conversion
    assert asked == ConversionSpec(source="hf://ada/model")
    assert (asked.max_batch_size, asked.max_beam_width, asked.merge, asked.calibration) == (None, 1, None, None)
    assert CalibrationSpec() == CalibrationSpec(dataset="cnn_dailymail", samples=512, length=512)


def test_a_dump_means_the_same(tmp_path):
    spec = load(tmp_path, FULL).spec
    plain = dump_spec(spec)
    assert ModelSpec.model_validate(plain) == spec
    assert list(plain["conversion"]["trusted_code"]) == ["a.py", "b.py"]


def test_other_engines_convert_nothing(tmp_path):
    text = "name: x\nengine: {kind: vllm}\nweights: {source: hf://ada/engine}\nconversion: {source: hf://ada/model}\n"
    what = "`conversion` is for weights that are compiled, which those of the engine vllm are not"
    assert problems(tmp_path, text) == [(what, "remove `conversion`")]


def test_weights_are_not_made_of_themselves(tmp_path):
    what = "`conversion` makes 'hf://ada/engine' of itself"
    mend = "name the model in `conversion.source`, and in `weights.source` where the engine goes"
    assert problems(tmp_path, f"{ENGINE}conversion: {{source: hf://ada/engine}}\n") == [(what, mend)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("source: file://m, revision: x", "`conversion.revision` is for hf:// alone: file:// has no revisions"),
        (
            "source: hf://a/b, merge: {source: file://l, revision: x}",
            "`conversion.merge.revision` is for hf:// alone: file:// has no revisions",
        ),
        ("source: hf://a/b, max_seq_len: 0", "`conversion.max_seq_len` must be at least 1, not 0"),
        (
            "source: hf://a/b, calibration: {dataset: ../here}",
            "`conversion.calibration.dataset` must be a data set such as cnn_dailymail, or an absolute path, not '../here'",
        ),
        ("source: hf://a/b, max_sequence_len: 1", "unknown key 'max_sequence_len' in `conversion`"),
    ],
)
def test_what_is_refused(tmp_path, line, what):
    assert [one for one, _ in problems(tmp_path, f"{ENGINE}conversion: {{{line}}}\n")] == [what]
