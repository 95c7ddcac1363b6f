"""KV-Runahead (Cho, Rastegari, Naik, ICML 2024, arXiv 2405.05329): prefill by a chain of ranks.

Every rank holds all weights and runs its own piece of the prompt. Layer by layer it receives the keys and values of all
tokens before its own, appends its own, sends the whole on to the next rank and attends. Nothing is collective; the last
rank ends with the complete cache and the first token, and goes on with transformers' ordinary `generate`.

The model is not changed: the exchange is a cache (`RunaheadCache`). Ours, beyond the paper: ranks before the last leave
after the last layer's keys and values; keys outside a sliding window are not sent; an existing cache enters at the
first rank, so that a second turn starts its chain at the rank that ended the first.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lightsleeper.errors import UserError
from lightsleeper.generation.attention import LOWER_RIGHT, attention
from lightsleeper.generation.cache import HandedOverError, RunaheadCache, Trace
from lightsleeper.generation.layout import inspect, passed
from lightsleeper.generation.rope import by_length, whole_length
from lightsleeper.generation.split import checked
from lightsleeper.generation.transport import Transport


@dataclass
class Prefilled:
    """What a rank has after a prefill: the cache of every token up to its own last."""

    cache: DynamicCache
    logits: Tensor | None
    """(B, vocabulary) of the token after the prompt, on the last rank of the chain; None on others."""
    trace: Trace

    @property
    def first_token(self) -> Tensor:
        """The likeliest next token (B, 1), on the last rank."""
        assert self.logits is not None, "only the last rank of the chain has the first token"
        return self.logits.argmax(-1, keepdim=True)


class Runahead:
    """One rank of a chain. Every rank makes one, of the same weights in eval mode; no transport: a chain of one.

    Raises UserError for a model that cannot be prefilled so (`layout.inspect`).

    Example:
        chain = Runahead(model, Transport())
        done = chain.prefill(input_ids, split=(700, 324))
        if transport.rank == 1:
            text = continued(model, input_ids, done, max_new_tokens=20)
    """

    def __init__(self, model: PreTrainedModel, transport: Transport | None, skip_masked: bool = True) -> None:
        self.model, self.transport = model, transport
        self.rank, self.size = (0, 1) if transport is None else (transport.rank, transport.size)
        self.skip_masked = skip_masked
        """Leave out the masked half of a rank's own block where the model's attention allows it."""
        self.layout = inspect(model)
        self._length_matters = bool(by_length(model))
        self._arguments = set(signature(model.forward).parameters)

    @torch.no_grad()
    def prefill(
        self,
        input_ids: Tensor,
        split: Sequence[int],
        attention_mask: Tensor | None = None,
        past: DynamicCache | None = None,
        past_tokens: int = 0,
        order: Sequence[int] | None = None,
    ) -> Prefilled | None:
        """This rank's part of the prefill; None on a rank that the split leaves out.

        Args:
            input_ids: All new tokens (B, C), the same on every rank; rows of other lengths padded on the left.
            split: Tokens of each rank in the chain's order.
            attention_mask: (B, past_tokens + C), 0 where padded; None: nothing is.
            past: Existing cache of ``past_tokens`` tokens, on the first rank of the chain (others pass None); it is
                not changed.
            past_tokens: The same on every rank.
            order: Ranks in the order of the chain; None: 0, 1, ... A second turn starts at the rank that has the cache.

        Raises UserError for a split that does not fit and RankLostError when a neighbour is gone.
        """
        begin = time.monotonic()
        order = list(range(self.size)) if order is None else list(order)
        split = checked(split, input_ids.shape[1], len(order))
        if self.rank not in order[: len(split)]:
            return None
        place = order.index(self.rank)
        own = sum(split[:place])
        if place == 0 and (past_tokens > 0) != (past is not None):
            raise UserError(f"the first rank of the chain needs the existing cache of {past_tokens} tokens.")
        cache = RunaheadCache(
            self.model.config,
            self.layout,
            self.transport,
            len(input_ids),
            input_ids.device,
            prefix=past_tokens + own,
            before=order[place - 1] if place > 0 else None,
            after=order[place + 1] if place + 1 < len(split) else None,
            past=past if place == 0 else None,
        )
        stop = own + split[place]
        inputs = self._inputs(input_ids[:, own:stop], attention_mask, past_tokens + own, past_tokens + stop)
        with ExitStack() as stack:
            if self._length_matters:
                stack.enter_context(whole_length(self.model, _last_position(past_tokens, input_ids, attention_mask)))
            if self.skip_masked and (place > 0 or past_tokens):
                stack.enter_context(attention(self.model, LOWER_RIGHT))
            logits = self._forward(inputs, cache)
        if self.transport is not None:
            self.transport.drain()
        cache.trace.begin, cache.trace.end = begin, time.monotonic()
        return Prefilled(cache.plain(), logits, cache.trace)

    def _forward(self, inputs: dict[str, Any], cache: RunaheadCache) -> Tensor | None:
        try:
            return self.model(**inputs, **passed(self.model, cache)).logits[:, -1]
        except HandedOverError:
            return None

    def _inputs(self, ids: Tensor, mask: Tensor | None, start: int, stop: int) -> dict[str, Any]:
        """What the model is called with for the tokens ``start`` to ``stop``."""
        inputs: dict[str, Any] = {"input_ids": ids}
        if mask is not None and not bool(mask.all()):
            inputs["attention_mask"] = mask[:, :stop]
            if "position_ids" in self._arguments:
                inputs["position_ids"] = positions(mask)[:, start:stop]
        if "logits_to_keep" in self._arguments:
            inputs["logits_to_keep"] = 1
        return inputs


def positions(mask: Tensor) -> Tensor:
    """Positions (B, T) of tokens behind padding on the left, as transformers' `generate` counts them."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def _last_position(past_tokens: int, ids: Tensor, mask: Tensor | None) -> int:
    return past_tokens + ids.shape[1] - 1 if mask is None else int(mask.sum(-1).max()) - 1


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    input_ids: Tensor,
    prefilled: Prefilled,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    first: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Prompt and ``max_new_tokens`` more tokens (B, C + max_new_tokens) by transformers' `generate`, on the last rank.

    Args:
        input_ids: Every token of the cache (B, S), earlier turns' among them.
        attention_mask: (B, S).
        first: The token after the prompt (B, 1); None: the likeliest one.
        options: For `generate`. Its cache grows on: ``prefilled.cache`` then holds all but the last token.
    """
    ids = torch.cat([input_ids, prefilled.first_token if first is None else first], dim=1)
    ended = model.generation_config.eos_token_id
    if max_new_tokens == 1 or (
        ended is not None and bool(torch.isin(ids[:, -1], torch.tensor(ended, device=ids.device)).all())
    ):
        return ids
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    mask = torch.cat([attention_mask, attention_mask.new_ones(len(ids), 1)], dim=1)
    generate: Any = model.generate
    return generate(
        input_ids=ids,
        attention_mask=mask,
        **passed(model, prefilled.cache),
        max_new_tokens=max_new_tokens - 1,
        **options,
    )
