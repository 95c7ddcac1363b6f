"""Multiple-choice items as tokens: what is scored, what is shared, what is cut."""

from pathlib import Path

import pytest
import torch
from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import Item
from lightsleeper.data.tokens import IGNORED, byte_tokenizer
from lightsleeper.errors import UserError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = [f"{letter}" for letter in "abcdef "]


def merging() -> PreTrainedTokenizerFast:
    """A tokenizer that joins a and b, c and d, and a blank with c: contexts may end inside of a token."""
    vocabulary = {text: number for number, text in enumerate([*LETTERS, "ab", "cd", " c"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("c", "d"), (" ", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def item(context: str, *choices: str, answer: int = 0, group: str = "g") -> Item:
    return Item(context, choices, answer, group)


def spelled(batch: dict[str, torch.Tensor], row: int) -> tuple[bytes, bytes]:
    """What a row of a batch of bytes reads, and what of it is scored."""
    place = int(batch["item"][row])
    length, steps = int(batch["prefix_lengths"][place]), int(batch["tail_lengths"][row])
    prefix = batch["prefix"][place]
    read = bytes(prefix[len(prefix) - length :].tolist()) + bytes(batch["tails"][row, :steps].tolist())
    return read, bytes(target for target in batch["targets"][row].tolist() if target != IGNORED)


def test_a_batch_holds_every_context_once_and_scores_every_choice_whole() -> None:
    items = [item("one two", " three", " four"), item("a", " bc", " de", " fgh", answer=2, group="h")]
    rows = ChoiceRows(items, byte_tokenizer())
    batch = rows.collate([rows[0], rows[1]])
    assert spelled(batch, 0) == (b"one two thre", b" three")
    assert spelled(batch, 1) == (b"one two fou", b" four")
    assert spelled(batch, 4) == (b"a fg", b" fgh")
    assert batch["prefix"].shape == (2, 6)  # its last token begins every tail
    assert batch["prefix_lengths"].tolist() == [6, 0]
    assert batch["item"].tolist() == [0, 0, 1, 1, 1]
    assert batch["bytes"].tolist() == [6, 5, 3, 3, 4]
    assert (batch["answers"].tolist(), batch["groups"].tolist(), batch["numbers"].tolist()) == ([0, 2], [0, 1], [0, 1])
    assert rows.longest == 12


def test_items_come_by_length_and_keep_their_numbers() -> None:
    items = [item("x" * length, " a", " b", group=str(length)) for length in (3, 9, 5, 7)]
    batches = list(ChoiceRows(items, byte_tokenizer()).loader(2))
    assert torch.cat([batch["numbers"] for batch in batches]).tolist() == [1, 3, 2, 0]
    assert torch.cat([batch["groups"] for batch in batches]).tolist() == [1, 3, 2, 0]


def test_tokens_are_those_of_the_whole_text_behind_those_of_the_context() -> None:
    """As lm-eval has it: what a tokenizer melts across the border is not split, and the shared part ends before."""
    tokenizer = merging()
    rows = ChoiceRows([item("fa", "be", "ce")], tokenizer)
    (batch,) = rows.loader(1)
    for row, text in enumerate(("fabe", "face")):
        whole, inside = tokenizer(text)["input_ids"], tokenizer("fa")["input_ids"]
        kept = batch["targets"][row][batch["targets"][row] != IGNORED].tolist()
        assert kept == whole[len(inside) :]
        read = [*batch["prefix"][0].tolist(), *batch["tails"][row, : batch["tail_lengths"][row]].tolist()]
        assert read == whole[:-1]


def test_blanks_at_the_end_of_a_context_belong_to_its_choices() -> None:
    tokenizer = merging()
    (spaced,) = ChoiceRows([item("ab ", "cd", "ef")], tokenizer).loader(1)
    (plain,) = ChoiceRows([item("ab", " cd", " ef")], tokenizer).loader(1)
    for name in ("prefix", "tails", "targets"):
        assert torch.equal(spaced[name], plain[name])


def test_too_long_a_context_loses_its_beginning_in_all_choices_alike() -> None:
    rows = ChoiceRows([item("abcdefghij", " k", " lmn"), item("z", " k", " l")], byte_tokenizer(), window=6)
    assert rows.cut == 1
    assert rows.longest == 6
    first, _ = rows.loader(1)
    assert spelled(first, 0) == (b"hij ", b" k")
    assert spelled(first, 1) == (b"hij lm", b" lmn")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (item("abc", " defgh", " i"), "item 0: its longest choice needs more tokens than 5"),
        (item("  ", " a", " b"), "item 0 has no context that its choices could follow"),
        (item("ab", "", "cd"), "item 0: a choice has no token of its own"),
    ],
)
def test_items_that_cannot_be_scored_are_refused(bad: Item, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ChoiceRows([bad], byte_tokenizer(), window=5)
