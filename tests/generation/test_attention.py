import pytest
import tiny_prefill as tiny
import torch
from lightsleeper.generation.attention import LOWER_RIGHT, STOCK, WRITTEN_OUT, attention, can_skip, lower_right
from lightsleeper.generation.layout import passed
from transformers import DynamicCache


def tensors(new: int, total: int, heads: int = 6, groups: int = 2, width: int = 16, rows: int = 2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, count, length, width, generator=generator)
        for count, length in ((heads, new), (groups, total), (groups, total))
    ]


def masked(query, key, value):
    """The same by a written-out mask in float64."""
    new, total = query.shape[2], key.shape[2]
    groups = query.shape[1] // key.shape[1]
    key, value = key.double().repeat_interleave(groups, 1), value.double().repeat_interleave(groups, 1)
    scores = query.double() @ key.mT / query.shape[-1] ** 0.5
    seen = torch.ones(new, total, dtype=torch.bool).tril(total - new)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize(("new", "total"), [(1, 1), (5, 5), (1, 9), (2, 9), (8, 9), (300, 1000), (900, 1000)])
def test_two_merged_parts_are_the_masked_softmax(new, total):
    query, key, value = tensors(new, total)
    torch.testing.assert_close(lower_right(query, key, value).double(), masked(query, key, value), rtol=0, atol=2e-6)


def test_keys_that_dwarf_the_others_do_not_overflow_the_merge():
    query, key, value = tensors(4, 12)
    key[:, :, :8] *= 300
    merged = lower_right(query, key, value)
    assert merged.isfinite().all()
    torch.testing.assert_close(merged.double(), masked(query, key, value), rtol=0, atol=1e-4)


def test_values_of_another_width_are_attended_to_as_well():
    query, key, value = tensors(3, 7)
    wide = torch.cat([value, value], dim=-1)
    found = lower_right(query, key, wide)
    torch.testing.assert_close(found[..., :16], lower_right(query, key, value), rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_model_gives_the_same_with_and_without_masked_pairs():
    model, ids = tiny.llama(), tiny.prompt(20)
    logits = []
    for name in (STOCK, LOWER_RIGHT, WRITTEN_OUT):
        cache = DynamicCache(config=model.config)
        with attention(model, name):
            for piece in ids.split([9, 8, 1, 2], dim=1):
                out = model(input_ids=piece, **passed(model, cache)).logits
        logits.append(out)
        assert model.config._attn_implementation == STOCK
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0, atol=1e-5)


def test_models_with_attention_of_their_own_keep_it():
    model = tiny.falcon(multi_query=True)
    assert not can_skip(model)
    with attention(model, LOWER_RIGHT):
        assert model.config._attn_implementation == STOCK
    assert can_skip(tiny.llama())
    assert not can_skip(tiny.llama(attn_implementation="eager"))
