"""What KV-Runahead is compared with: one process, one process in chunks, and sequence parallelism by all-gather.

All run the model's own code on the same weights, and all but the dense all-gather use the same kernels.
"""

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lightsleeper.errors import UserError
from lightsleeper.generation.attention import LOWER_RIGHT, WRITTEN_OUT, attention
from lightsleeper.generation.cache import GatherCache, Trace
from lightsleeper.generation.layout import Layout, passed
from lightsleeper.generation.runahead import Prefilled
from lightsleeper.generation.split import even


@torch.no_grad()
def one_process(model: PreTrainedModel, input_ids: Tensor, chunk: int | None = None) -> Prefilled:
    """Prefill of ``input_ids`` (B, C) as `generate` does it; ``chunk``: so many tokens at a time, the cache between."""
    trace = Trace(begin=time.monotonic())
    cache = DynamicCache(config=model.config)
    logits = None
    with attention(model, LOWER_RIGHT):
        for piece in input_ids.split(chunk or input_ids.shape[1], dim=1):
            logits = model(input_ids=piece, **passed(model, cache), logits_to_keep=1).logits[:, -1]
    trace.end = time.monotonic()
    return Prefilled(cache, logits, trace)


class AllGather:
    """Sequence parallelism: an even split, and in every layer one all-gather of keys and values.

    ``dense`` attends to all tokens and masks the later ones; otherwise later tokens and the masked half of the own
    block are skipped with the kernels of KV-Runahead. Raises UserError for sliding windows.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout, dense: bool) -> None:
        if any(shape is None or shape.window is not None for shape in layout):
            raise UserError("the all-gather baseline is for models whose every layer attends to the whole prompt.")
        self.model, self.dense = model, dense
        self._groups: dict[int, Any] = {}

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, ranks: int, group: Any) -> tuple[Prefilled, int]:
        """This rank's part, among the first ``ranks`` of ``group``, and the bytes it sent.

        Every rank ends with the complete cache, the last one with the logits.
        """
        begin = time.monotonic()
        split, rank = even(input_ids.shape[1], ranks), dist.get_rank(group)
        cache = GatherCache(split, rank, group, self.dense)
        own = sum(split[:rank])
        ids = input_ids[:, own : own + split[rank]]
        with attention(self.model, WRITTEN_OUT if self.dense else LOWER_RIGHT):
            logits = self.model(input_ids=ids, **passed(self.model, cache), logits_to_keep=1).logits[:, -1]
        cache.trace.begin, cache.trace.end = begin, time.monotonic()
        return Prefilled(cache, logits if rank == len(split) - 1 else None, cache.trace), cache.gathered_bytes
