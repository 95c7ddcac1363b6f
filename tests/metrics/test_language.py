import math

import pytest
import torch
from lightsleeper.metrics.language import LanguageMetrics


def rows(seed: int = 0, documents: int = 12, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(tokens, generator=generator) * 3
    return losses, torch.randint(documents, (tokens,), generator=generator), torch.randint(0, 4, (tokens,))


def test_values_are_sums_over_all_tokens_however_they_are_batched() -> None:
    losses, documents, sizes = rows()
    whole, parts = LanguageMetrics(), LanguageMetrics()
    whole.update(losses, documents, sizes)
    for part in torch.arange(400).view(8, 50):
        parts.update(losses[part].view(5, 10), documents[part].view(5, 10), sizes[part].view(5, 10))
    first, second = whole.results(""), parts.results("")
    assert first["loss"].value == pytest.approx(float(losses.double().mean()))
    assert first["perplexity"].value == pytest.approx(math.exp(float(losses.double().mean())))
    assert first["bits_per_byte"].value == pytest.approx(float(losses.double().sum() / sizes.sum()) / math.log(2))
    for name, value in first.items():
        assert second[name].value == pytest.approx(value.value)
        assert (second[name].low, second[name].high) == pytest.approx((value.low, value.high))
        assert value.low < value.value < value.high
        assert value.n == 12


def test_tokens_of_no_document_do_not_count() -> None:
    losses, documents, sizes = rows()
    metric, fewer = LanguageMetrics(), LanguageMetrics()
    metric.update(losses, documents.masked_fill(documents == 3, -1), sizes)
    kept = documents != 3
    fewer.update(losses[kept], documents[kept], sizes[kept])
    assert metric.results("", intervals=False) == fewer.results("", intervals=False)


def test_the_interval_is_wider_where_documents_differ_than_where_tokens_do() -> None:
    documents = torch.arange(400) // 20  # 20 documents
    levels = torch.rand(20, generator=torch.Generator().manual_seed(1)) * 4
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(2))
    widths = []
    for losses in (levels[documents], levels[documents][shuffled]):
        metric = LanguageMetrics()
        metric.update(losses, documents, torch.ones_like(documents))
        found = metric.results("")["loss"]
        widths.append(found.high - found.low)
    assert widths[0] > 2 * widths[1]


def test_one_document_has_no_interval_and_none_has_no_value() -> None:
    metric = LanguageMetrics()
    metric.update(torch.ones(4), torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long))
    assert metric.results("")["loss"].low is None
    assert math.isnan(LanguageMetrics().results("")["loss"].value)
    silent = LanguageMetrics()
    silent.update(torch.ones(4), torch.arange(4), torch.zeros(4, dtype=torch.long))
    assert math.isnan(silent.results("")["bits_per_byte"].value)  # no text behind the tokens
