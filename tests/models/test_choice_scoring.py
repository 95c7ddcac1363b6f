"""Likelihoods of choices: shared contexts and batches change nothing but the time."""

from collections.abc import Callable
from functools import wraps

import pytest
import tiny_transformers as tiny
import torch
import transformers as T
from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import Item
from lightsleeper.models.choice_scoring import log_likelihoods, scored_tokens
from torch import nn


class Digits:
    """A tokenizer of numbers between blanks."""

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(number) for number in text.split()] for text in texts]}


def items(seed: int = 0) -> list[Item]:
    """Contexts of one to eleven tokens, two to four choices of one to six; some choices begin alike."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> str:
        return "".join(f" {n}" for n in torch.randint(2, tiny.VOCABULARY, (length,), generator=generator).tolist())

    found = []
    for number in range(7):
        start = text(number % 3)
        choices = tuple(start + text(1 + (number + place) % 4) for place in range(2 + number % 3))
        found.append(Item(text(1 + (5 * number) % 11)[1:], choices, 0, str(number)))
    return found


def bloom() -> T.PreTrainedModel:
    return tiny.shaken(
        T.BloomForCausalLM(T.BloomConfig(vocab_size=tiny.VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    )


def mamba() -> T.PreTrainedModel:
    config = T.MambaConfig(vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    return tiny.shaken(T.MambaForCausalLM(config))


NETWORKS: dict[str, Callable[[], T.PreTrainedModel]] = {
    "gpt2": tiny.gpt2,  # learned positions
    "llama": tiny.llama,
    "qwen3": tiny.qwen3,
    "sliding window": lambda: tiny.mistral(sliding_window=5),
    "bloom": bloom,  # positions from the mask
    "mamba": mamba,  # no keys and values to share
}


@torch.no_grad()
def plain(net: nn.Module, context: str, choice: str) -> float:
    """One choice by itself."""
    tokens, first = [int(n) for n in (context + choice).split()], len(context.split())
    chances = net(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return sum(float(chances[place - 1, tokens[place]]) for place in range(first, len(tokens)))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_choice_has_the_likelihood_of_a_plain_loop(name: str, share: bool) -> None:
    net = NETWORKS[name]()
    given = items()
    for batch in ChoiceRows(given, Digits()).loader(4):  # type: ignore[arg-type]
        with torch.no_grad():
            found = log_likelihoods(net, batch, share)
        asked = [given[number] for number in batch["numbers"].tolist()]
        expected = [plain(net, item.context, choice) for item in asked for choice in item.choices]
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-4, check_dtype=False)
        lengths = [len(choice.split()) for item in asked for choice in item.choices]
        assert scored_tokens(batch).tolist() == lengths


def test_a_context_is_read_once_for_all_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    net, read = tiny.llama(), []
    forward = net.forward

    @wraps(forward)  # its arguments are looked at
    def counted(input_ids: torch.Tensor, **options: object) -> object:
        read.append(input_ids.numel())
        return forward(input_ids, **options)

    monkeypatch.setattr(net, "forward", counted)
    item = Item(" ".join(["7"] * 20), (" 1 2", " 3 4", " 5 6", " 8 9"), 0, "")
    (batch,) = ChoiceRows([item], Digits()).loader(1)  # type: ignore[arg-type]
    with torch.no_grad():
        log_likelihoods(net, batch)
    assert read == [19, 4 * 2]
