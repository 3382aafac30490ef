"""What the transformers adapter does beside the conformance suite: folders, prompts, defaults, the network."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from fakes.engines import make_setup
from fakes.models import write_model
from fakes.quantized import quantize
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from packager.errors import EngineError, LoadError, RequestError
from packager.runtime.engine import (
    Delta,
    Engine,
    EngineFacts,
    EngineSetup,
    GenerationRequest,
    Message,
    SamplingParams,
)
from packager.runtime.engines import open_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "one two three four five"
CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without GPU does")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(llama: Path) -> AsyncIterator[Engine]:
    adapter, _ = await started(llama)
    yield adapter
    await adapter.stop()


async def started(folder: Path, *, quantization: str = "none", **options: object) -> tuple[Engine, EngineFacts]:
    adapter = open_engine("transformers", make_setup(folder, quantization=quantization, **{"threads": 1} | options))
    return adapter, await adapter.start()


def ask(prompt: str | tuple[Message, ...] = PROMPT, max_tokens: int = 16, **sampling: object) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, **sampling)
    if isinstance(prompt, str):
        return GenerationRequest("r", prompt=prompt, sampling=params)
    return GenerationRequest("r", messages=prompt, sampling=params)


async def read(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def edit(path: Path, **changed: object) -> None:
    """Change words of a JSON file; None takes one away."""
    words = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({name: value for name, value in words.items() if value is not None}))


# Folders.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def without_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot read config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "cannot read config.json"),
    "unknown architecture": (
        lambda folder: edit(folder / "config.json", model_type="warp"),
        "cannot read config.json: The checkpoint .* model type `warp`",
    ),
    "own code": (
        lambda folder: edit(folder / "config.json", model_type="warp", auto_map={"AutoConfig": "warp.WarpConfig"}),
        "cannot read config.json",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot load the model"),
    "broken weights": (
        lambda folder: cut(folder / "model.safetensors"),
        "cannot load the model: .*incomplete metadata",
    ),
    "no weights in the file": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "the weights cannot be read",
    ),
    "weights of another width": (
        lambda folder: edit(folder / "config.json", intermediate_size=512),
        "cannot load the model",
    ),
    "missing weights": (without_a_layer, "lack 3 tensors of the model, for one model.layers.1.mlp.down_proj.weight"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot read the tokenizer"),
    "broken tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "cannot read the tokenizer"),
    "broken template": (
        lambda folder: edit(folder / "tokenizer_config.json", chat_template="{% if %}"),
        "the chat template cannot be read",
    ),
}


@CPU_ONLY
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_folder_is_a_load_error_with_a_reason(copy: Path, name: str) -> None:
    damage, reason = BROKEN[name]
    damage(copy)
    with pytest.raises(LoadError, match=reason) as caught:
        await started(copy)
    assert caught.value.problems[0].mend


@CPU_ONLY
async def test_a_failed_start_can_be_stopped(copy: Path) -> None:
    (copy / "config.json").unlink()
    adapter = open_engine("transformers", make_setup(copy))
    with pytest.raises(LoadError):
        await adapter.start()
    await adapter.stop()
    assert not adapter.health().alive
    with pytest.raises(EngineError, match="stopped"):
        await read(adapter, ask())


async def test_without_weights_it_does_not_start() -> None:
    with pytest.raises(LoadError, match="needs weights"):
        await open_engine("transformers", make_setup(None)).start()


@CPU_ONLY
async def test_a_model_that_memory_cannot_hold_is_refused(copy: Path) -> None:
    """Its file says what it takes, and is not read."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LoadError, match=r"needs 4096\.0 GiB of memory, and .* GiB are free"):
        await started(copy)
    with pytest.raises(LoadError, match=r"needs 512\.0 GiB"):
        await started(copy, quantization="nf4")
    with pytest.raises(LoadError, match=r"needs 2048\.0 GiB"):
        await started(copy, dtype="bfloat16")


@CPU_ONLY
async def test_a_context_that_memory_cannot_hold_is_refused(copy: Path) -> None:
    edit(copy / "config.json", max_position_embeddings=2**40)
    with pytest.raises(LoadError, match=r"one request of \d+ tokens needs 2097152\.0 GiB") as caught:
        await started(copy)
    assert "engine.context_length" in caught.value.problems[0].mend


def written(folder: Path, kind: str, **words: object) -> Any:
    """Put a model of another architecture, with the library's own first weights, in place of the one in `folder`."""
    config = AutoConfig.for_model(kind, **{"vocab_size": 2048, "bos_token_id": 0, "eos_token_id": 2} | words)
    (folder / "generation_config.json").unlink()
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


async def test_a_model_that_keeps_its_state_its_own_way_is_refused(copy: Path) -> None:
    written(copy, "rwkv", hidden_size=64, num_hidden_layers=2)
    with pytest.raises(LoadError, match="cannot be served: RwkvForCausalLM takes no cache"):
        await started(copy)


async def test_a_model_that_does_not_say_its_context_wants_it_said(copy: Path) -> None:
    """Mamba: it has a state and no keys and values, so each request is computed by itself."""
    model = written(copy, "mamba", hidden_size=64, num_hidden_layers=2, state_size=8)
    edit(copy / "tokenizer_config.json", model_max_length=None)
    with pytest.raises(LoadError, match="does not say how long its context is"):
        await started(copy)
    adapter, facts = await started(copy, context_length=128)
    requests = [replace(ask(f"{PROMPT} {number}", temperature=0), id=f"r{number}") for number in range(3)]
    answers = await asyncio.gather(*(read(adapter, request) for request in requests))
    await adapter.stop()
    assert facts.context_length == 128
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    for request, deltas in zip(requests, answers, strict=True):
        ids = torch.tensor([tokenizer.encode(request.prompt).ids])
        own = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
        assert text_of(deltas) == tokenizer.decode(own.tolist())


async def test_a_context_longer_than_the_models_is_refused(llama: Path) -> None:
    with pytest.raises(LoadError, match="is 257; the model was trained for 256 tokens"):
        await started(llama, context_length=257)


# Quantization.


@CPU_ONLY
async def test_double_quantization_changes_the_constants(llama: Path) -> None:
    states = []
    for double in (False, True):
        adapter, _ = await started(llama, quantization="nf4", double_quantization=double)
        states.append(adapter._model.network.model.model.layers[0].mlp.up_proj.weight.quant_state)
        await adapter.stop()
    once, twice = states
    assert (once.quant_type, twice.quant_type) == ("nf4", "nf4")
    assert not torch.equal(once.absmax, twice.absmax)


@CPU_ONLY
@pytest.mark.parametrize(("quantization", "dtype"), [("int8", torch.int8), ("int4", torch.uint8), ("nf4", torch.uint8)])
async def test_quantized_weights_are_small(llama: Path, quantization: str, dtype: torch.dtype) -> None:
    adapter, _ = await started(llama, quantization=quantization)
    model = adapter._model.network.model
    await adapter.stop()
    assert model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    assert model.lm_head.weight.dtype == torch.float32


async def test_quantized_weights_are_not_quantized_again(llama: Path, tmp_path: Path) -> None:
    saved = quantize(llama, tmp_path / "nf4")
    with pytest.raises(LoadError, match=r"quantized already .*bitsandbytes.*: they cannot be made int8"):
        await started(saved, quantization="int8")


@pytest.mark.parametrize("quantization", ["none", "int8"])
async def test_double_quantization_alone_is_refused(llama: Path, quantization: str) -> None:
    with pytest.raises(LoadError, match="double_quantization needs quantization int4 or nf4"):
        await started(llama, quantization=quantization, double_quantization=True)


@CPU_ONLY
async def test_widths_without_a_kernel_are_a_load_error(copy: Path) -> None:
    written(copy, "llama", hidden_size=36, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(LoadError, match="is loaded and cannot compute") as caught:
        await started(copy, quantization="nf4")
    assert "quantization" in caught.value.problems[0].mend


@CPU_ONLY
async def test_dtype_is_the_weights_own_or_the_one_asked_for(copy: Path) -> None:
    for dtype in ("auto", "bfloat16"):
        adapter, _ = await started(copy, dtype=dtype)
        assert adapter._model.network.model.dtype == (torch.float32 if dtype == "auto" else torch.bfloat16)
        assert text_of(await read(adapter, ask(temperature=0)))
        await adapter.stop()


# Prompts and answers.


async def test_context_length_is_the_models_or_a_smaller_one(llama: Path) -> None:
    for given, expected in ((None, 256), (100, 100)):
        adapter, facts = await started(llama, context_length=given)
        (last,) = (await read(adapter, ask(max_tokens=1000, temperature=0)))[-1:]
        await adapter.stop()
        assert facts.context_length == expected
        assert last.usage.prompt_tokens + last.usage.completion_tokens <= expected


async def test_special_tokens_come_from_the_tokenizer_or_from_the_template(copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    ids = len(tokenizer.encode(PROMPT).ids)
    tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.save(str(copy / "tokenizer.json"))
    template = "{{ messages[0]['content'] }}"
    adapter = open_engine("transformers", EngineSetup("tiny", "1", {"threads": 1}, copy, 2, template))
    await adapter.start()
    prompt, chat = [
        (await read(adapter, ask(words, 1)))[-1].usage.prompt_tokens for words in (PROMPT, (Message("user", PROMPT),))
    ]
    await adapter.stop()
    assert (prompt, chat) == (ids + 1, ids)


async def test_a_template_may_refuse_the_messages(copy: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}hello"
    edit(copy / "tokenizer_config.json", chat_template=refusing)
    adapter, _ = await started(copy)
    with pytest.raises(RequestError, match="no system turn") as caught:
        await read(adapter, ask((Message("system", "be brief"),)))
    assert caught.value.problems[0].where == "messages"
    assert text_of(await read(adapter, ask((Message("user", "hi"),))))
    await adapter.stop()


async def test_without_a_template_there_is_no_chat(tmp_path: Path) -> None:
    adapter, facts = await started(write_model(tmp_path / "plain", chat_template=False))
    assert not facts.features.chat
    with pytest.raises(RequestError, match="no chat template"):
        await read(adapter, ask((Message("user", "hi"),)))
    await adapter.stop()


async def test_a_token_that_the_model_lacks_is_refused(copy: Path) -> None:
    """On a GPU it would be the end of the engine."""
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    tokenizer.add_tokens([f"<{number}>" for number in range(tokenizer.get_vocab_size(), 2049)])
    tokenizer.save(str(copy / "tokenizer.json"))
    adapter, _ = await started(copy)
    assert await read(adapter, ask("hello <2047>"))
    with pytest.raises(RequestError, match="the model has no token '<2048>'"):
        await read(adapter, ask("hello <2048>"))
    await adapter.stop()


async def test_every_end_of_the_generation_config_ends_an_answer(copy: Path, engine: Engine) -> None:
    ids = torch.tensor([Tokenizer.from_file(str(copy / "tokenizer.json")).encode(PROMPT).ids])
    written = engine._model.network.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    fourth = next(at for at in range(3, 8) if written[at] not in written[:at])
    edit(copy / "generation_config.json", eos_token_id=[2, written[fourth]])
    adapter, _ = await started(copy)
    whole = await read(engine, ask(temperature=0, logprobs=0))
    ended = await read(adapter, ask(temperature=0, logprobs=0))
    going_on = await read(adapter, ask(temperature=0, ignore_eos=True))
    await adapter.stop()
    assert (ended[-1].finish_reason, ended[-1].usage.completion_tokens) == ("stop", fourth + 1)
    assert text_of(ended) == text_of(whole[:fourth])
    assert sum(len(delta.logprobs) for delta in ended) == fourth + 1
    assert text_of(going_on) == text_of(whole)


async def test_what_a_request_leaves_out_comes_from_the_generation_config(copy: Path) -> None:
    edit(copy / "generation_config.json", do_sample=True, temperature=3.0, top_k=50)
    adapter, _ = await started(copy)
    assert len({text_of(await read(adapter, ask())) for _ in range(3)}) > 1
    assert len({text_of(await read(adapter, ask(temperature=0))) for _ in range(3)}) == 1
    await adapter.stop()


async def test_a_stop_string_takes_its_logprobs_along(engine: Engine) -> None:
    whole = text_of(await read(engine, ask(temperature=0)))
    stopped = await read(engine, ask(temperature=0, stop=(whole[10:14],), logprobs=2))
    raw = b"".join(one.token.raw for delta in stopped for one in delta.logprobs)
    assert raw.decode(errors="replace").startswith(text_of(stopped))
    assert sum(len(delta.logprobs) for delta in stopped) < stopped[-1].usage.completion_tokens


# The network.


OFFLINE = """
import asyncio, sys
from pathlib import Path
asyncio.new_event_loop().close()
def refuse(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {given}")
sys.addaudithook(refuse)
from packager.runtime.engine import EngineSetup
from packager.runtime.engines import open_engine
async def main():
    setup = EngineSetup("tiny", "1", {"threads": 1}, Path(sys.argv[1]), 2, None, "nf4")
    engine = open_engine("transformers", setup)
    await engine.start()
    await engine.stop()
asyncio.run(main())
from huggingface_hub.constants import HF_HUB_OFFLINE
print(HF_HUB_OFFLINE)
"""


@CPU_ONLY
async def test_nothing_reaches_for_the_network(llama: Path) -> None:
    """Every name that is looked up and every connection is an audit event of Python's."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OFFLINE, str(llama), stdout=pipe, stderr=pipe)
    printed, errors = await process.communicate()
    assert printed == b"True\n", errors.decode()


async def test_code_of_the_weights_runs_only_where_the_spec_vouches_for_it(
    copy: Path, engine: Engine, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    (copy / "modeling_own.py").write_text(f"""
from transformers import LlamaConfig, LlamaForCausalLM

open({str(ran)!r}, "w").close()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""")
    classes = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edit(copy / "config.json", model_type="own", architectures=["OwnForCausalLM"], auto_map=classes)
    with pytest.raises(LoadError, match="contains custom code"):
        await started(copy)
    assert not ran.exists()
    adapter = open_engine("transformers", replace(make_setup(copy, threads=1), own_code=True))
    await adapter.start()
    assert ran.exists()
    request = ask(temperature=0)
    assert text_of(await read(adapter, request)) == text_of(await read(engine, request))
    await adapter.stop()
