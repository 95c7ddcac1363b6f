"""Multiple-choice items as batches in which the choices of an item share the tokens of its context.

Tokens are those of `lm-eval`: context and choice are encoded together, and what lies behind the tokens of the context
encoded alone is scored. Where a tokenizer melts the end of the context into a choice, the shared part ends before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.choices import Item
from lightsleeper.data.tokens import IGNORED
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = 0  # any token: no mask lets it through


@dataclass(frozen=True)
class EncodedItem:
    """The tokens of one item."""

    number: int
    prefix: list[int]
    """What all choices have in common but its last token, which is the first one of each tail."""
    tails: list[list[int]]
    unscored: int
    """Targets at the beginning of each tail that still belong to the context."""

    @property
    def size(self) -> tuple[int, int]:
        return len(self.prefix), max(map(len, self.tails))


class ChoiceRows(Dataset):
    """Items in the order of their length.

    A batch of B items with R choices in all: ``prefix`` (B, P), padded on the left, and ``prefix_lengths`` (B,); of
    each choice ``tails`` and ``targets`` (R, T), the token after each, padded on the right, ``tail_lengths`` (R,),
    ``bytes`` (R,) of its text and ``item`` (R,), its place in the batch; ``answers``, ``groups`` and ``numbers`` (B,).

    Args:
        items: in the order that ``numbers`` count.
        tokenizer: the model's; special tokens that it adds by itself stay.
        window: tokens that a model reads at most; longer items lose the beginning of their context, in all choices
            alike. None: no limit.

    Raises UserError for a choice that fits no window, and for one without a token of its own.
    """

    def __init__(self, items: Sequence[Item], tokenizer: "PreTrainedTokenizerFast", window: int | None = None) -> None:
        self.items = items
        names = {group: number for number, group in enumerate(dict.fromkeys(item.group for item in items))}
        self.groups = [names[item.group] for item in items]
        self.cut = 0
        """Items whose context was too long."""
        encoded = [self._encode(number, tokenizer, window) for number in range(len(items))]
        self.encoded = sorted(encoded, key=lambda found: found.size, reverse=True)  # what is too large fails first
        self.longest = max((sum(found.size) - 1 for found in encoded), default=0)
        """Tokens that a model reads of the longest item."""

    def _encode(self, number: int, tokenizer: "PreTrainedTokenizerFast", window: int | None) -> EncodedItem:
        item = self.items[number]
        context = item.context.rstrip()  # the blanks go to the choices: tokens begin with them
        blanks = item.context[len(context) :]
        if not context:
            raise UserError(f"item {number} has no context that its choices could follow.")
        texts = [context, *(context + blanks + choice for choice in item.choices)]
        inside, *wholes = tokenizer(texts)["input_ids"]
        first = len(inside)
        if any(len(whole) <= first for whole in wholes):
            raise UserError(f"item {number}: a choice has no token of its own: {item.choices}.")
        too_long = max(map(len, wholes)) - 1 - (window or max(map(len, wholes)))
        if too_long > 0:
            if too_long >= first:
                raise UserError(f"item {number}: its longest choice needs more tokens than {window}.")
            self.cut += 1
            wholes, first = [whole[too_long:] for whole in wholes], first - too_long
        shared = next((i for i, tokens in enumerate(zip(*wholes, strict=False)) if len({*tokens}) > 1), first)
        start = max(min(shared, first) - 1, 0)
        return EncodedItem(number, wholes[0][:start], [whole[start:] for whole in wholes], first - start - 1)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> EncodedItem:
        return self.encoded[index]

    def loader(self, batch_size: int) -> DataLoader:
        return DataLoader(self, batch_size, collate_fn=self.collate)

    def collate(self, found: Sequence[EncodedItem]) -> dict[str, Tensor]:
        tails = [torch.tensor(tail) for one in found for tail in one.tails]
        targets = [tail[1:].clone() for tail in tails]
        for target, unscored in zip(targets, [one.unscored for one in found for _ in one.tails], strict=True):
            target[:unscored] = IGNORED
        items = [self.items[one.number] for one in found]
        prefixes = [torch.tensor(one.prefix, dtype=torch.int64) for one in found]
        return {
            "prefix": pad_sequence(prefixes, batch_first=True, padding_value=PAD, padding_side="left"),
            "prefix_lengths": torch.tensor([len(prefix) for prefix in prefixes]),
            "tails": pad_sequence([tail[:-1] for tail in tails], batch_first=True, padding_value=PAD),
            "targets": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
            "tail_lengths": torch.tensor([len(target) for target in targets]),
            "bytes": torch.tensor([len(choice.encode()) for item in items for choice in item.choices]),
            "item": torch.tensor([place for place, item in enumerate(items) for _ in item.choices]),
            "answers": torch.tensor([item.answer for item in items]),
            "groups": torch.tensor([self.groups[one.number] for one in found]),
            "numbers": torch.tensor([one.number for one in found]),
        }
