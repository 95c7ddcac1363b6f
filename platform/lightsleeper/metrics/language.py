"""Loss, perplexity and bits per byte of a language model, with intervals over documents.

Bits per byte compares models with different tokenizers; perplexity, which is per token, does not.
"""

import math

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric
from lightsleeper.metrics.resampling import draws, interval

LARGEST_LOSS = 700.0  # nats: exp of more is no float64


class LanguageMetrics(RowMetric):
    """Collects the losses of predicted tokens, summed by document.

    >>> metrics = LanguageMetrics()
    >>> metrics.update(losses, batch["documents"], batch["bytes"])
    >>> metrics.results("test/")["test/bits_per_byte"]
    Measurement(value=2.31, low=2.25, high=2.37, n=61, method='bootstrap over documents, 1000')
    """

    columns = ("scores", "documents", "tokens", "bytes")

    def update(self, losses: Tensor, documents: Tensor, byte_counts: Tensor) -> None:
        """Nats, document number (-1: not counted) and bytes of text of each predicted token, all of one shape."""
        counted = documents >= 0
        names, place = documents[counted].unique(return_inverse=True)

        def total(values: Tensor) -> Tensor:
            return values.new_zeros(len(names)).index_add_(0, place, values)

        losses = losses[counted]
        self.append(
            scores=total(losses.to(self._type("scores", losses.device))),
            documents=names,
            tokens=total(torch.ones_like(place)),
            bytes=total(byte_counts[counted]),
        )

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(m.value) for name, m in self.results("", intervals=False).items()}

    def by_document(self) -> Tensor:
        """Sums (documents, 3) of nats, tokens and bytes, in the order of their numbers; on the CPU, float64."""
        with self.gathered():
            rows = [self.rows(column).cpu() for column in ("scores", "tokens", "bytes")]
            names, place = self.rows("documents").cpu().unique(return_inverse=True)
        # one document may lie in several batches
        return torch.zeros(len(names), 3, dtype=torch.double).index_add_(0, place, torch.stack(rows, 1).double())

    def results(self, prefix: str = "test/", intervals: bool = True, resamples: int = 1000) -> dict[str, Measurement]:
        """``{prefix}loss`` (nats a token), ``perplexity`` and ``bits_per_byte``; nan where no token was predicted."""
        found = quotients(self.by_document(), resamples if intervals else 0)
        return {f"{prefix}{name}": value for name, value in found.items()}


def quotients(sums: Tensor, resamples: int = 1000) -> dict[str, Measurement]:
    """Loss, perplexity and bits per byte of documents (documents, 3), as `LanguageMetrics.by_document` sums them up.

    ``resamples`` 0: without intervals.
    """
    values = _quotients(sums.sum(0)[None])
    found = {name: Measurement(float(value[0]), n=len(sums)) for name, value in values.items()}
    if resamples and len(sums) > 1:
        drawn = torch.cat([weights @ sums for weights in draws(len(sums), resamples)])  # (resamples, 3)
        method = f"bootstrap over documents, {resamples}"
        for name, resampled in _quotients(drawn).items():
            low, high = interval(resampled)
            found[name] = Measurement(found[name].value, low, high, len(sums), method)
    return found


def paired(sums: Tensor, other: Tensor, name: str = "bits_per_byte", resamples: int = 1000) -> Measurement:
    """How much larger ``name`` is for ``sums`` than for ``other``, both (documents, 3) of the same documents."""
    value = float((_quotients(sums.sum(0)[None])[name] - _quotients(other.sum(0)[None])[name])[0])
    if len(sums) < 2:
        return Measurement(value, n=len(sums))
    drawn = list(draws(len(sums), resamples))
    differences = [_quotients(weights @ sums)[name] - _quotients(weights @ other)[name] for weights in drawn]
    low, high = interval(torch.cat(differences))
    return Measurement(value, low, high, len(sums), f"paired bootstrap over documents, {resamples}")


def _quotients(sums: Tensor) -> dict[str, Tensor]:
    """Loss, perplexity and bits per byte of sums (n, 3) of nats, tokens and bytes."""
    nats, tokens, length = sums.unbind(1)
    loss = nats / tokens
    return {
        "loss": loss,
        "perplexity": loss.clamp(max=LARGEST_LOSS).exp(),
        "bits_per_byte": torch.where(length > 0, nats / length / math.log(2), torch.nan),
    }
