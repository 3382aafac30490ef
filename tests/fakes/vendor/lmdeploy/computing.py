"""What both stand-in engines do: draw letters that hang on the last tokens, one a turn of the event loop."""

import asyncio
import math
from random import Random

from .tokenizer import EOS

_CANDIDATES = [*range(0x61, 0x7B), 0x20, 0x2E, 0xC3, 0xA9, 0xE2, EOS]
_STEP_SECONDS = 0.001
_TOGETHER = 4
"""Of so many steps, two come together."""

MADE: list = []
"""Every AsyncEngine that was made."""
REFUSAL: BaseException | None = None
"""What making one raises."""


class Handle:
    """One place in the batch."""

    def __init__(self, engine):
        self.engine = engine
        self.cancelled = False

    async def async_cancel(self, session_id=None):
        self.cancelled = True
        self.engine.cancels += 1

    async def async_stream_infer(self, session_id, input_ids, gen_config=None, stream_output=False, **kwargs):
        """(status, token ids, log probabilities), as lmdeploy's EngineOutput says it: some have two tokens, as under load."""
        self.cancelled = False
        self.engine.seen.append(gen_config)
        if self.engine.grammarless and gen_config.response_format is not None:
            gen_config.response_format = None  # as TurboMind, which then only logs it
        draw = Random(gen_config.random_seed)
        ids = list(input_ids)
        ends = [] if gen_config.ignore_eos else gen_config.stop_token_ids
        new, places = [], []
        for step in range(gen_config.max_new_tokens):
            await asyncio.sleep(_STEP_SECONDS)
            if self.cancelled:
                yield "cancel", [], None
                return
            if self.engine.breaks is not None:
                raise self.engine.breaks
            if self.engine.fail_at == step:
                if new:
                    yield "success", new, places or None
                yield "error", [], None
                return
            scores = scores_of(ids, len(input_ids), gen_config)
            token = draw.choices(*zip(*kept(scores, gen_config), strict=True))[0]
            ids.append(token)
            new.append(token)
            places += self.likely(ids[:-1], len(input_ids), token, gen_config) or ()
            last = token in ends or step == gen_config.max_new_tokens - 1
            if last or step % _TOGETHER != _TOGETHER - 2:
                yield "finish" if last else "success", new, places or None
                new, places = [], []
            if last:
                return

    def likely(self, ids, prompt, token, config):
        """The chosen one first, then the likeliest, before anything is filtered."""
        if not config.logprobs or not self.engine.gives_logprobs:
            return None
        scores = scores_of(ids, prompt, None)
        total = math.log(sum(math.exp(score) for score in scores.values()))
        best = sorted(scores, key=scores.get, reverse=True)[: config.logprobs]
        return [{one: scores[one] - total for one in (token, *best)}]


def scores_of(ids, prompt, config):
    shape = Random(str(ids[-3:]))
    scores = {token: shape.gauss(0, 2) for token in _CANDIDATES}
    if config is not None and config.repetition_penalty != 1:
        for token in set(ids[prompt:]) & scores.keys():
            score = scores[token]
            scores[token] = score / config.repetition_penalty if score > 0 else score * config.repetition_penalty
    return scores


def kept(scores, config):
    """(token, weight) after temperature, top_k, top_p and min_p."""
    heat = max(config.temperature, 1e-6)
    ranked = sorted(scores, key=scores.get, reverse=True)[: config.top_k or None]
    weights = [math.exp((scores[one] - scores[ranked[0]]) / heat) for one in ranked]
    total, reached, left = sum(weights), 0.0, []
    for one, weight in zip(ranked, weights, strict=True):
        if left and (reached >= config.top_p or weight < config.min_p):
            break
        left.append((one, weight))
        reached += weight / total
    return left


class Computing:
    """What the tests turn: `fail_at` is the step at which each request fails, `breaks` what it raises, `dead` what it says of
    its health."""

    breaks: Exception | None = None
    gives_logprobs = True
    dead = ""
    fail_at: int | None = None
    grammarless = False
    mute = False

    def __init__(self, engine_config):
        self.engine_config = engine_config
        self.closed_in = None
        self.cancels = 0
        self.seen = []

    def health(self):
        if self.mute:
            raise RuntimeError("no answer")
        return {"alive": not self.dead, "message": self.dead or "well", "schedule_metrics": None}
