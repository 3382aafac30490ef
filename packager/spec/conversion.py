"""Conversion: of what `packager convert` makes the weights, and within which limits.

The lock does not ask for it: it locks what came out.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from .address import Address, Revision, check_revision
from .grammar import RELATIVE_PATH, Grammar, RelativePath, Strict, keys_of
from .weights import Sha256

CONVERTED = ("tensorrt_llm_engine",)
"""Engines whose weights `packager convert` makes."""

Count = Annotated[int, Field(ge=1, le=65_536)]
Tokens = Annotated[int, Field(ge=1, le=16_777_216)]


class MergeSpec(Strict):
    """A LoRA adapter, which becomes part of the weights before they are compiled."""

    source: Address
    """Where the adapter is, as in `weights.source`: a folder with adapter_config.json and adapter_model.safetensors."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` adapter; without it the newest."""

    _revision_fits = field_validator("revision", mode="after")(check_revision)


class CalibrationSpec(Strict):
    """Texts that the model reads while it is quantized, to find its scales (TensorRT-LLM's `CalibConfig`)."""

    dataset: Annotated[
        str, Grammar(r"/?[A-Za-z0-9_][A-Za-z0-9_./-]*", "a data set such as cnn_dailymail, or an absolute path", 255)
    ] = "cnn_dailymail"
    """`cnn_dailymail` or `pileval` (`lambada` where the cache alone is calibrated), which TensorRT-LLM fetches by itself,
    unverified; or the absolute path of a folder where it converts, that holds such a data set, or texts in a column `text`.
    TensorRT-LLM runs the code of a data set that brings some."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """How many of its texts are read."""
    length: Tokens = 512
    """Tokens of each text that are read."""


class ConversionSpec(Strict):
    """Of what `packager convert` makes the weights. How they are quantized, number format of the cache, parallel and GPU are
    those of the spec. The lock does not ask for this section.
    """

    source: Address
    """Where the model is, as in `weights.source`: a folder of transformers with config.json and safetensors."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` source; without it the newest."""
    trusted_code: Mapping[RelativePath, Sha256] = Field(default_factory=dict, json_schema_extra=keys_of(RELATIVE_PATH))
    """Files of the source that run code (`*.py`, pickles) and that you have read: path to sha256. Without an entry here they
    are not taken, and a configuration that names code (`auto_map`) is refused."""
    merge: MergeSpec | None = None
    """A LoRA adapter to merge into the model first."""
    max_batch_size: Count | None = None
    """Requests at once; without it `serving.max_concurrency`."""
    max_input_len: Tokens | None = None
    """Tokens of a prompt; without it what `max_seq_len` and `max_num_tokens` allow."""
    max_seq_len: Tokens | None = None
    """Tokens of prompt and answer together; without it `engine.context_length`, else what the model was trained for."""
    max_num_tokens: Tokens | None = None
    """Tokens of all requests in one step; without it 8192, or a longer `max_input_len`."""
    max_beam_width: Count = 1
    """Beams of a request; packager's server asks for one."""
    calibration: CalibrationSpec | None = None
    """How quantization finds its scales (`awq`, `fp8`, a quantized cache); without it with TensorRT-LLM's own defaults."""

    _revision_fits = field_validator("revision", mode="after")(check_revision)
