"""Audio-text matching by Dynamic Sequence Partitioning (Nishu et al., Interspeech 2023; papers/dsp).

A frozen phoneme-CTC encoder gives frames; a text encoder gives one token a word (published) or one a phone (ours);
DSP cuts the frames into one run per token, and the distance between run means and tokens is the score. The same
encoder's CTC likelihood of the typed phones is a second score, and `fused` weighs both on validation.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.errors import UserError
from lightsleeper.models.family import Batch, ExportGraph, SavedModel, read_model
from lightsleeper.models.keyword_fused import FusedKeyword
from lightsleeper.models.kws_dsp_graphs import graphs
from lightsleeper.models.kws_encoder import load_encoder
from lightsleeper.nn.ctc import keyword_score
from lightsleeper.nn.matching import IMPOSSIBLE, Head, Partition, Pooling
from lightsleeper.nn.optimizer import Schedule
from lightsleeper.nn.ranges import at_least
from lightsleeper.nn.text import Token
from lightsleeper.phones import BLANK

CATALOG = ("KeywordDSP",)

Score = Literal["fused", "dsp", "ctc"]


class KeywordDSP(FusedKeyword):
    """Open-vocabulary keyword spotter: does this clip say this text?

    Args:
        encoder: Run or export folder of a trained PhonemeCTC, or its architecture as a mapping (random weights); null
            with ``init_from``.
        init_from: Run or export folder of a finished KeywordDSP of the same sizes to start from (fine-tuning).
        text_encoder: ``phones``, ours and trained here, or a hub name or local folder of a transformers model, frozen
            (published: distilbert-base-uncased).
        token: One token a word (published) or a phone.
        dim: Width of the space audio and text are compared in. Published: 144.
        projector_layers: LayerNorm-Linear pairs in each projector: 1 or 2 (both readings of the paper).
        audio_features: What the audio projector sees: hidden states (published), or those and phone log-probabilities.
        partition: How frames are cut: dsp, or the baselines equal and random.
        compare: Further partitions, each with its own head trained on the same batches; reported, not shipped.
        loss: hinge (published), or softmax over the clip's true text and its negatives.
        margin_positive: Hinge: distance below which a match costs nothing. Published: 0.2.
        margin_negative: Hinge: distance above which a mismatch costs nothing. Published: 7.
        pooling: A keyword's distance: mean over its tokens (published), or worst, a soft maximum: one wrong token of
            many is then not averaged away.
        easy_negatives: Other texts of the batch per clip, besides the hard ones the data brings.
        train_encoder: Train the encoder too, with its CTC loss added.
        encoder_augment: Its augmentation in this training: warp, noise, masks, dropout; null, and what is not named,
            as it was trained with before.
        score: What ships: dsp, ctc, or fused, their weighted sum calibrated on validation.
        lr: Peak learning rate of AdamW.
        schedule: cosine to 2 % of ``lr``, or noam (published).
        warmup_steps: Steps until the peak. Published: 2000.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        encoder: str | Path | dict[str, Any] | None = None,
        init_from: str | Path | None = None,
        text_encoder: str = "phones",
        token: Token = "word",
        dim: int = 144,
        projector_layers: Literal[1, 2] = 2,
        audio_features: Literal["hidden", "hidden+phones"] = "hidden",
        partition: Partition = "dsp",
        compare: list[Partition] | None = None,
        loss: Literal["hinge", "softmax"] = "softmax",
        margin_positive: float = 0.2,
        margin_negative: float = 7.0,
        pooling: Pooling = "mean",
        easy_negatives: int = 2,
        train_encoder: bool = False,
        encoder_augment: dict[str, float] | None = None,
        score: Score = "fused",
        lr: float = 1e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
    ) -> None:
        others = [p for p in compare or [] if p != partition]
        kind = partition if score == "dsp" else score
        super().__init__(
            (partition, "ctc"), others, kind, easy_negatives, train_encoder, lr, schedule, warmup_steps, weight_decay
        )
        at_least(1, dim=dim)
        at_least(0, margin_positive=margin_positive, margin_negative=margin_negative)
        if projector_layers not in (1, 2):
            raise ValueError(f"projector_layers must be 1 or 2; got {projector_layers}")
        if text_encoder != "phones" and token == "phone":
            raise ValueError(f"token: phone needs text_encoder: phones; '{text_encoder}' gives one token a word")
        start = None if init_from is None else read_model(init_from, "KeywordDSP", "init_from")
        if encoder is None:
            if start is None:
                raise ValueError("encoder: a trained PhonemeCTC is needed, or init_from")
            encoder = dict(start.init_args["encoder"])
        self.encoder, encoder_architecture = load_encoder(encoder, encoder_augment or {})
        if not train_encoder:
            self.encoder.requires_grad_(False)
        self._architecture = {
            "encoder": encoder_architecture,
            "text_encoder": text_encoder,
            "token": token,
            "dim": dim,
            "projector_layers": projector_layers,
            "audio_features": audio_features,
            "partition": partition,
            "compare": compare,
            "pooling": pooling,
            "score": score,
        }
        self.partition, self.compare = partition, others  # heads, shipped first
        self.loss, self.margin_positive, self.margin_negative = loss, margin_positive, margin_negative
        width = encoder_architecture["dim"] + (40 if audio_features == "hidden+phones" else 0)
        self.audio_features = audio_features
        self.heads = nn.ModuleDict(
            {p: Head(width, dim, text_encoder, token, projector_layers, p, pooling) for p in [partition, *self.compare]}
        )
        for head in self._heads().values():
            head.scale.requires_grad_(loss == "softmax")  # the hinge has no temperature; DDP waits for every gradient
        if start is not None:
            self._start_from(start)

    def _start_from(self, start: SavedModel) -> None:
        try:
            missing, unexpected = self.load_state_dict(start.weights(), strict=False)
        except RuntimeError as error:
            raise start.misfit(error) from error
        missing = [name for name in missing if not name.startswith(tuple(f"heads.{p}." for p in self.compare))]
        if missing or unexpected:
            raise UserError(f"init_from: '{start.folder}' has other weights, first {[*missing, *unexpected][0]}")

    @property
    def head(self) -> Head:
        """The head that ships."""
        return self._heads()[self.partition]

    def _heads(self) -> dict[str, Head]:
        """By partition, the shipped one first."""
        return dict(self.heads.items())  # type: ignore[arg-type]

    def _frames(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Audio features (B, N, width), log-probabilities (B, N, 40) and encoder frames (B,)."""
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            hidden, frames = self.encoder.encode(batch["audio"], batch["audio_lengths"])
            log_probs = self.encoder.log_probs(hidden)
        return self._features(hidden, log_probs), log_probs, frames

    def _features(self, hidden: Tensor, log_probs: Tensor) -> Tensor:
        if self.audio_features == "hidden":
            return hidden.float()
        # Posteriors, not log-probabilities: a run's mean then says which share of it each phone was heard in. The
        # factor brings a certain phone to the spread of layer-normalised hidden states.
        return torch.cat([hidden.float(), 4.0 * log_probs.exp()], dim=-1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        features, log_probs, frames = self._frames(batch)
        phones, words, index = self._candidates(batch)
        mismatch = (phones[index] != phones[index[:, :1]]).any(-1)  # (B, texts); a text equal to the true one is none
        texts = None if self.head.needs_phones else self._texts(batch)
        total = features.new_zeros(())
        for name, head in self._heads().items():
            loss = self._match_loss(head(features, frames, phones, words, index, texts), mismatch, head)
            self.log(f"train/loss_{name}", loss, batch_size=len(frames))
            total = total + loss
        if self.train_encoder:
            total = total + self.encoder.ctc_loss(log_probs, frames, batch["phones"])
        self.log("train/loss", total, prog_bar=True, batch_size=len(frames))
        return total

    def _candidates(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """All texts of the batch, phones (R, P) and words (R, P), and which of them each clip meets: (B, 1 + K + E).

        Column 0 is the true text, then the clip's K hard ones, then E true texts of other clips.
        """
        phones, words = batch["phones"], batch["words"]
        size = len(phones)
        own = torch.arange(size, device=phones.device)[:, None]
        columns = [own]
        if "negative_phones" in batch:
            hard = batch["negative_phones"]
            longest = max(phones.shape[1], hard.shape[-1])
            phones = torch.cat([_widen(phones, longest, BLANK), _widen(hard.flatten(0, 1), longest, BLANK)])
            words = torch.cat([_widen(words, longest, -1), _widen(batch["negative_words"].flatten(0, 1), longest, -1)])
            columns.append(size + own * hard.shape[1] + torch.arange(hard.shape[1], device=phones.device))
        columns.append((own + torch.arange(1, self.easy_negatives + 1, device=phones.device)) % size)
        return phones, words, torch.cat(columns, dim=1)

    def _texts(self, batch: Batch) -> list[str]:
        """Texts in the order of `_candidates`' rows."""
        if "negative_phones" in batch and "negative_text" not in batch:
            raise UserError(
                "the hard negatives of this data are sounds without a spelling: set text_encoder: phones, or "
                "negatives_per_clip: 0 in the data."
            )
        return [*batch["text"], *(text for row in batch.get("negative_text", []) for text in row)]

    def _match_loss(self, distance: Tensor, mismatch: Tensor, head: Head) -> Tensor:
        """Loss of distances (B, texts), column 0 the true text; texts equal to it, or unsolvable ones, are left out."""
        mismatch = mismatch & distance.isfinite()
        possible = distance[:, 0].isfinite()
        distance = distance.masked_fill(~distance.isfinite(), 0.0)
        if self.loss == "hinge":
            positive = F.relu(distance[:, 0] - self.margin_positive) * possible
            negative = F.relu(self.margin_negative - distance) * mismatch
            return (positive.sum() + negative.sum()) / (possible.sum() + mismatch.sum()).clamp(min=1)
        logits = -head.scale.exp() * distance
        mask = torch.cat([torch.zeros_like(mismatch[:, :1]), ~mismatch[:, 1:]], dim=1)
        loss = -logits.masked_fill(mask, -1e4).log_softmax(-1)[:, 0]
        return (loss * possible).sum() / possible.sum().clamp(min=1)

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        features, log_probs, frames = self._frames(batch)
        text = None if self.head.needs_phones else batch["text"]
        scores = {}
        for name, head in self._heads().items():
            distance = head(features, frames, batch["phones"], batch["words"], texts=text)
            scores[name] = -distance.clamp(max=-IMPOSSIBLE)
        own = scores.pop(self.partition)
        return {self.partition: own, "ctc": keyword_score(log_probs, frames, batch["phones"]), **scores}

    def locate(self, batch: Batch) -> Tensor:
        """Cuts (B, M+1) in encoder frames of 40 ms: token k spans frames [cuts[k], cuts[k+1])."""
        features, _, frames = self._frames(batch)
        text = None if self.head.needs_phones else batch["text"]
        return self.head.cuts(features, frames, batch["phones"], batch["words"], text)

    def export_spec(self) -> list[ExportGraph]:
        return graphs(self)


def _widen(rows: Tensor, width: int, value: int) -> Tensor:
    return F.pad(rows, (0, width - rows.shape[-1]), value=value)
