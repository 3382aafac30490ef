"""Between our requests and vLLM's: prompts, sampling parameters, log probabilities, refusals."""

# Sets what the imports below read; it must come first.
from . import vllm_environment  # noqa: F401

# isort: split

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError
from vllm import SamplingParams as VllmSampling
from vllm import exceptions
from vllm.lora.request import LoRARequest
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from ...errors import ContextLengthError, EngineError, LoadError, RequestError
from ..engine import GenerationRequest, Likely, Message, OutputForm, TokenLogprob
from .decode import Detokenizer

REFUSALS: tuple[type[Exception], ...] = (getattr(exceptions, "VLLMClientError", ValueError), ValueError)
"""What vLLM raises when a request asks what it does not do; before VLLMClientError it was ValueError alone."""
_SHORT = 2000
"""Characters of a prompt that are tokenized on the event loop: the way to vLLM's own thread and back takes longer."""
_OUTPUTS = {"json_schema": "json", "grammar": "grammar", "regex": "regex"}
_GIVEN = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


class Prompts:
    """Prompts as token ids, by the engine's own renderer: chat template and tokenizer are vLLM's."""

    def __init__(self, renderer: Any, template: str | None, context: int) -> None:
        self._renderer = renderer
        self._chat = ChatParams(chat_template=template, chat_template_kwargs={"add_generation_prompt": True})
        # Without vLLM's own limit, so that a prompt that is too long is counted and not cut.
        self._whole = replace(renderer.default_cmpl_tok_params, max_total_tokens=None)
        self._rendered = replace(renderer.default_chat_tok_params, max_total_tokens=None)
        self._context = context

    async def token_ids(self, request: GenerationRequest) -> list[int]:
        """The request's prompt. Raises RequestError (ContextLengthError: it leaves no room for an answer)."""
        where = "prompt" if request.messages is None else "messages"
        try:
            ids = await self._token_ids(request)
        except REFUSALS as error:
            raise refusal(error, where) from error
        except TimeoutError as error:
            raise EngineError(f"vLLM did not render the chat: {error}") from error
        if not ids:
            raise RequestError("the prompt has no tokens", where=where)
        if len(ids) >= self._context:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens; the context holds {self._context}, with at least one for the answer",
                where=where,
                mend="shorten it",
            )
        return ids

    async def has_template(self) -> bool:
        """Whether there is a chat template; one that refuses this chat is one. Raises LoadError when it is no template."""
        try:
            await self._renderer.render_chat_async([[{"role": "user", "content": "-"}]], self._chat, self._rendered)
        except TemplateSyntaxError as error:
            raise LoadError(
                f"the chat template cannot be read: {error.message} (line {error.lineno})",
                mend="give another one as `weights.chat_template`",
            ) from error
        except REFUSALS as error:
            return error.__cause__ is not None  # the template's; without one it is vLLM's word that there is none
        return True

    async def _token_ids(self, request: GenerationRequest) -> list[int]:
        rendered = (
            await self._chat_prompt(request.messages) if request.messages else await self._prompt(request.prompt or "")
        )
        ids: list[int] = rendered["prompt_token_ids"]
        return ids

    async def _prompt(self, text: str) -> Any:
        prompts = [{"prompt": text}]
        if len(text) < _SHORT:
            return self._renderer.render_cmpl(prompts, self._whole)[0]
        return (await self._renderer.render_cmpl_async(prompts, self._whole))[0]

    async def _chat_prompt(self, messages: Sequence[Message]) -> Any:
        chats = [[message.plain() for message in messages]]
        if sum(len(message.content) for message in messages) < _SHORT:
            return self._renderer.render_chat(chats, self._chat, self._rendered)[1][0]
        return (await self._renderer.render_chat_async(chats, self._chat, self._rendered))[1][0]


def lora_requests(adapters: Mapping[str, Path]) -> dict[str, LoRARequest]:
    """The adapters as vLLM names them: with a number of its own for each, from 1."""
    named = enumerate(adapters.items(), start=1)
    return {name: LoRARequest(name, number, str(folder)) for number, (name, folder) in named}


def first_requests() -> tuple[VllmSampling, ...]:
    """One token each, by every way to choose a token that is compiled when it is first taken: no later one waits for it."""
    plain = VllmSampling(max_tokens=1, temperature=1, logprobs=1)
    narrow = VllmSampling(
        max_tokens=1, temperature=1, top_k=2, top_p=0.5, structured_outputs=StructuredOutputsParams(regex=".")
    )
    return plain, narrow


def sampling_params(request: GenerationRequest, defaults: Mapping[str, Any], room: int) -> VllmSampling:
    """The request's sampling in vLLM's words: what is not given is the model's own default, then vLLM's.

    `room` is how many tokens the context has left. Stop strings are not vLLM's: it holds back as much text as
    the longest one has, and of two it takes the one that ends first. Raises RequestError.
    """
    asked = request.sampling
    values = {name: value for name in _GIVEN if (value := getattr(asked, name)) is not None}
    try:
        return VllmSampling(
            **({name: value for name, value in defaults.items() if name in _GIVEN} | values),
            max_tokens=room if asked.max_tokens is None else min(asked.max_tokens, room),
            logprobs=asked.logprobs,
            ignore_eos=asked.ignore_eos,
            structured_outputs=_structured(request.output),
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,  # it is this request's alone
        )
    except REFUSALS as error:
        raise refusal(error) from error


def _structured(form: OutputForm | None) -> StructuredOutputsParams | None:
    if form is None:
        return None
    if form.kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(**{_OUTPUTS[form.kind]: form.value})


def logprobs_of(step: Any, top: int, tokens: Detokenizer) -> tuple[TokenLogprob, ...]:
    """The log probabilities of a step's tokens, each with the `top` likeliest at its place."""
    return tuple(
        _logprob(place, chosen, top, tokens) for place, chosen in zip(step.logprobs, step.token_ids, strict=True)
    )


def _logprob(place: Mapping[int, Any], chosen: int, top: int, tokens: Detokenizer) -> TokenLogprob:
    """The chosen token and the `top` likeliest: `place` has these, and the chosen one too when it is not among them."""
    likely = {token: Likely(tokens.token_bytes(token), one.logprob) for token, one in place.items()}
    best = sorted(likely.values(), key=lambda one: one.logprob, reverse=True)
    return TokenLogprob(likely[chosen], tuple(best[:top]))


def refusal(error: Exception, where: str = "") -> RequestError:
    """A refusal of vLLM's as ours; `where` is the parameter, when vLLM does not name it."""
    said = str(error.args[0]) if error.args else str(error)
    return RequestError(f"vLLM refuses the request: {said}", where=getattr(error, "parameter", None) or where)
