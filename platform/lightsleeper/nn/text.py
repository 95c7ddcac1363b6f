"""Typed text to token vectors, one a word (as published) or one a phone.

Two encoders with one call: a small phone-composed one, ours, trained with the matcher and needing no download; and the
published frozen DistilBERT (papers/dsp 3.2) from a hub name or a local folder, its word-pieces averaged per word and
[CLS]/[SEP] dropped (not stated in the paper; needed for "one token a word").
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.errors import UserError
from lightsleeper.nn.convolve import convolve
from lightsleeper.phones import BLANK, CLASSES

Token = Literal["word", "phone"]


def pool_words(states: Tensor, words: Tensor, count: int) -> Tensor:
    """Mean of states (B, P, d) over the phones of each word: (B, count, d); words (B, P) are numbers, -1 padding."""
    member = (words[:, None, :] == torch.arange(count, device=words.device)[None, :, None]).to(states.dtype)
    return (member @ states) / member.sum(-1, keepdim=True).clamp(min=1)


class PhoneText(nn.Module):
    """Phone embeddings, two convolutions over neighbouring phones, and for word tokens the mean over each word.

    Each phone carries its place in the word, so that a mean over a word keeps the order of its phones.
    """

    MAX_PLACE = 16  # phones further into a word share the last place

    def __init__(self, dim: int, token: Token = "word") -> None:
        super().__init__()
        self.dim, self.token = dim, token
        self.phone = nn.Embedding(CLASSES, dim, padding_idx=BLANK)
        self.place = nn.Embedding(self.MAX_PLACE, dim)
        self.mix = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(2))
        self.norm = nn.LayerNorm(dim)

    def forward(self, phones: Tensor, words: Tensor, max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Phones (B, P) and their word numbers to tokens (B, M, d) and counts (B,). ``max_tokens`` fixes M."""
        valid = (phones != BLANK).unsqueeze(-1)
        place = torch.zeros_like(words)
        same = torch.cat([torch.zeros_like(words[:, :1], dtype=torch.bool), words[:, 1:] == words[:, :-1]], dim=1)
        for step in range(1, min(self.MAX_PLACE, phones.shape[1])):  # place = length of the run of equal word numbers
            run = same.unfold(1, step, 1).all(-1)
            place = place + F.pad(run.to(words.dtype), (step - 1, 0))
        x = (self.phone(phones) + self.place(place)) * valid
        for layer in self.mix:
            x = (x + F.silu(convolve(x, layer, 1, 1))) * valid  # type: ignore[arg-type]
        x = self.norm(x) * valid
        if self.token == "phone":
            tokens, counts = x, valid.sum((1, 2))
            size = max_tokens or phones.shape[1]
            return F.pad(tokens, (0, 0, 0, size - tokens.shape[1])), counts
        counts = words.amax(1) + 1
        return pool_words(x, words, max_tokens or int(counts.max())), counts


class DistilBertText(nn.Module):
    """Frozen pretrained text encoder, one 768-d vector a word."""

    def __init__(self, source: str) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.bert = AutoModel.from_pretrained(source).eval().requires_grad_(False)
        except OSError as error:
            raise UserError(
                f"cannot load the text encoder '{source}': neither a local folder with a transformers model nor "
                f"reachable on the hub. Give a local folder, or text_encoder: phones."
            ) from error
        self.dim = int(self.bert.config.hidden_size)

    def train(self, mode: bool = True) -> "DistilBertText":
        return super().train(False)  # frozen: dropout stays off

    @torch.no_grad()
    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Texts to tokens (B, M, dim), zero-padded, and word counts (B,)."""
        split = [text.split() for text in texts]
        pieces = self.tokenizer(split, is_split_into_words=True, padding=True, return_tensors="pt")
        words = torch.tensor([[-1 if w is None else w for w in pieces.word_ids(i)] for i in range(len(texts))])
        states = self.bert(**pieces.to(self.bert.device)).last_hidden_state
        counts = torch.tensor([len(s) for s in split], device=states.device)
        return pool_words(states, words.to(states.device), int(counts.max())), counts
