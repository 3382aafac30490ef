"""Weights: where the model's bytes come from and how they reach the container."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from .address import Address, Revision, check_revision
from .grammar import NAME, RELATIVE_PATH, AsTuple, Grammar, RelativePath, Strict, keys_of, problem, quoted

Sha256 = Annotated[str, Grammar(r"[0-9a-f]{64}", "a sha256 of 64 lower-case hexadecimal digits", 64)]


class AdapterSpec(Strict):
    """A LoRA adapter, asked for by its own name beside the model's."""

    name: Annotated[str, NAME]
    """Name of the adapter: what requests give as `model`."""
    source: Address
    """Where the adapter is, as in `weights.source`: a folder with adapter_config.json and adapter_model.safetensors."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` adapter; without it the newest."""

    _revision_fits = field_validator("revision", mode="after")(check_revision)


class WeightsSpec(Strict):
    """The model's bytes."""

    source: Address
    """Where the weights are. `hf://OWNER/NAME` is a repository of the Hugging Face hub, `hf://OWNER/NAME/FOLDER` a folder
    within; `https://HOST/PATH` a file of a web server, with a slash at its end a folder that has a SHA256SUMS;
    `s3://BUCKET/PREFIX` what an object store has there; `file://PATH` a file or folder of this machine. A relative PATH
    starts at the spec's folder; the text after `file://` is taken as it stands (no % escapes)."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` source; without it the newest. The lock pins the commit."""
    tokenizer: Address | None = None
    """Where the tokenizer is, for weights that have none (a compiled engine, a merged model): an address as in `source`,
    of which only the tokenizer's files are taken. They stand beside the weights, for engines that open a folder."""
    tokenizer_revision: Revision | None = None
    """Branch, tag or commit of an `hf://` tokenizer; without it the newest. The lock pins the commit."""
    file: RelativePath | None = None
    """The file the engine opens, when the source is a folder with several (llama_cpp). Engines that open a whole
    folder (transformers, vllm, ctranslate2) take none: for a folder within, name it in `source`."""
    include: Annotated[tuple[RelativePath, ...], AsTuple, Field(min_length=1)] | None = None
    """Patterns (`*`, `?`, `[...]`, relative to the source folder) of the files to take; without it all."""
    chat_template: RelativePath | None = None
    """Jinja chat template, a file below the spec's folder; without it the one in the weights."""
    adapters: Annotated[tuple[AdapterSpec, ...], AsTuple] = ()
    """LoRA adapters to serve beside the model, each by its name (vllm)."""
    trusted_code: Mapping[RelativePath, Sha256] = Field(default_factory=dict, json_schema_extra=keys_of(RELATIVE_PATH))
    """Files among the weights that run code (`*.py`, pickles) and that you have read: path to sha256. Without an
    entry here such files are refused, and so is a configuration that names code (`auto_map`)."""
    ship: Annotated[Literal["in_image", "on_load"], Field(validate_default=True)] = "in_image"
    """`in_image` puts the weights into the package and the image; `on_load` fetches them, verified against the lock,
    when the container starts (a `file://` source is then an absolute path that the container mounts)."""

    _revision_fits = field_validator("revision", "tokenizer_revision", mode="after")(check_revision)

    @field_validator("tokenizer_revision", mode="after")
    @classmethod
    def _is_of_a_tokenizer(cls, revision: str | None, info: ValidationInfo) -> str | None:
        if revision is not None and info.data.get("tokenizer", "") is None:  # absent where it is wrong itself
            raise problem(
                "is the revision of a tokenizer that is not named", "name it in `weights.tokenizer`, or remove this"
            )
        return revision

    @field_validator("adapters", mode="after")
    @classmethod
    def _names_are_unique(cls, adapters: tuple[AdapterSpec, ...]) -> tuple[AdapterSpec, ...]:
        seen: set[str] = set()
        for adapter in adapters:
            if adapter.name in seen:
                raise problem(f"has two adapters named {quoted(adapter.name)}", "give one of them another name")
            seen.add(adapter.name)
        return adapters

    @field_validator("ship", mode="after")
    @classmethod
    def _ship_fits_sources(cls, ship: str, info: ValidationInfo) -> str:
        adapters = info.data.get("adapters") or ()
        for source in (info.data.get("source"), info.data.get("tokenizer"), *(one.source for one in adapters)):
            relative = source is not None and source.startswith("file://") and not source.startswith("file:///")
            if ship == "on_load" and relative:
                what = f"cannot be on_load: the container cannot find {quoted(source)} relative to a spec"
                raise problem(what, "write `ship: in_image`, or an absolute file:///PATH that the container mounts")
        return ship

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that files are taken from."""
        tokenizer = () if self.tokenizer is None else (self.tokenizer,)
        return (self.source, *tokenizer, *(adapter.source for adapter in self.adapters))
