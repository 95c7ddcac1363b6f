"""The chain against one process, on four processes with gloo.

Differences come from other tilings of the same sums: a few 1e-6 on keys of size 1 to 5 after three layers, in float32.
"""

import pytest
import tiny_prefill as tiny
import torch
from lightsleeper.errors import UserError
from lightsleeper.generation.layout import passed
from lightsleeper.generation.runahead import Runahead, continued
from lightsleeper.generation.split import ends
from transformers import DynamicCache

TOLERANCE = 1e-5


def check(found, cases):
    """No rank may differ from one process in its part of the cache, the last one in nothing."""
    for rank, results in enumerate(found):
        for (before, split), result in zip(cases, results, strict=True):
            assert result["cache"] <= TOLERANCE, (rank, before, split)
            assert result.get("logits", 0.0) <= TOLERANCE, (rank, before, split)
            assert result.get("same tokens", True), (rank, before, split)


def test_every_split_of_few_tokens_gives_the_cache_of_one_process_on_every_rank(ranks):
    cases = [(0, split) for split in tiny.splits((1, 2, 9), 4)]
    assert len(cases) == 1 + 2 + (1 + 8 + 28 + 56)
    check(ranks.call(tiny.compare, "llama, grouped queries", cases, False), cases)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_splits_of_more_tokens_over_architectures(ranks, name):
    cases = [(0, split) for split in [*tiny.splits((9,), 4, 3), *tiny.splits((33,), 4, 3)]]
    check(ranks.call(tiny.compare, name, cases, False), cases)


@pytest.mark.parametrize("name", ["llama, grouped queries", "gpt2", "gemma 3, windows and full", "deepseek 3"])
def test_twenty_greedy_tokens_are_those_of_one_process(ranks, name):
    cases = [(0, (33,)), (0, (20, 13)), (0, (12, 9, 7, 5)), (0, (1, 1, 1, 30)), (7, (5, 4))]
    check(ranks.call(tiny.compare, name, cases), cases)


@pytest.mark.parametrize("name", ["llama, grouped queries", "gpt2", "mistral, sliding window", "phi 3, long rope"])
def test_an_existing_cache_shifts_everything_by_its_length(ranks, name):
    cases = [(11, (9, 3)), (5, (3, 2, 1, 1)), (7, (1,)), (1, (1, 1)), (20, (2, 8, 3))]
    check(ranks.call(tiny.compare, name, cases, False), cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.MODELS)
def test_every_split_over_every_architecture(ranks, name):
    cases = [(0, split) for split in [*tiny.splits((1, 2, 9), 4), *tiny.splits((33,), 4, 60)]]
    check(ranks.call(tiny.compare, name, cases, False), cases)
    greedy = [(0, split) for split in tiny.splits((33,), 4, 3)] + [(13, (9, 3)), (2, (3, 2, 1, 1))]
    check(ranks.call(tiny.compare, name, greedy), greedy)


@pytest.mark.parametrize(
    "name", ["llama, grouped queries", "gpt2", "falcon, alibi", "opt", "gemma 3, windows and full"]
)
def test_sequences_of_other_lengths_are_padded_on_the_left(ranks, name):
    *_, found = [result for result in ranks.call(tiny.padded, name, (9, 4, 3)) if result]
    assert found["logits"] <= TOLERANCE
    assert found["same tokens"]


def test_several_sequences_of_one_length_go_together(ranks):
    cases = [(0, (5, 3, 1)), (4, (2, 6))]
    check(ranks.call(tiny.compare, "llama, grouped queries", cases, True, 3), cases)


def test_a_second_turn_starts_at_the_rank_that_has_the_cache(ranks):
    found = ranks.call(tiny.two_turns, (6, 4), (3, 2, 2))
    assert [result for result in found if result is not None] == [True]


def test_a_later_token_changes_nothing_before_it(ranks):
    for rank, changed in enumerate(ranks.call(tiny.changed_before, (5, 4, 3), 7)):
        assert changed == [False] * min(7, (*ends((5, 4, 3)), 0)[rank]), rank


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-2), (torch.bfloat16, 2e-2)])  # 10 and 7 bits
def test_half_precision_stays_within_its_rounding(ranks, dtype, limit):
    *_, worst = [value for value in ranks.call(tiny.half, dtype, (9, 5)) if value is not None]
    assert worst <= limit


def test_messages_go_to_the_next_rank_only_and_nothing_is_collective(ranks):
    split = (9, 5, 3)
    spied = ranks.call(tiny.spy, split)
    for rank, (collectives, posts, traffic, _) in enumerate(spied):
        assert collectives == []
        follows = rank + 1 < len(split)
        leads = 0 < rank < len(split)
        assert posts["isend"] == ([rank + 1] * 6 if follows else [])  # three layers, keys and values
        assert posts["irecv"] == ([rank - 1] * 6 if leads else [])
        seen = ends(split)[rank] if follows else 0
        assert traffic == ({rank + 1: (6, 3 * 2 * seen * 2 * 8 * 4)} if follows else {})


def test_products_are_those_of_the_paper(ranks):
    assert [spied[3] for spied in ranks.call(tiny.spy, (4, 3, 2))] == [{16}, {21}, {18}, set()]
    assert [spied[3] for spied in ranks.call(tiny.spy, (3, 3, 3))] == [{9}, {18}, {27}, set()]


def test_one_rank_is_bit_identical_to_the_plain_path_and_sends_nothing():
    model, ids = tiny.llama(), tiny.prompt(33)
    done = Runahead(model, None).prefill(ids, (33,))
    assert done is not None
    cache = DynamicCache(config=model.config)
    logits = model(input_ids=ids, **passed(model, cache), logits_to_keep=1).logits[:, -1]
    assert torch.equal(done.logits, logits)
    for mine, theirs in zip(done.cache.layers, cache.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)


def test_an_existing_cache_is_left_as_it_was():
    model, ids = tiny.llama(), tiny.prompt(12)
    past, _ = tiny.reference(model, ids[:, :5])
    kept = past.layers[0].keys.clone()
    Runahead(model, None).prefill(ids[:, 5:], (7,), past=past, past_tokens=5)
    assert torch.equal(past.layers[0].keys, kept)
    assert past.get_seq_length() == 5


def test_a_text_that_ended_with_its_first_token_is_not_continued():
    model, ids = tiny.llama(), tiny.prompt(9)
    done = Runahead(model, None).prefill(ids, (9,))
    model.generation_config.eos_token_id = int(done.first_token)
    assert continued(model, ids, done, 5).shape == (1, 10)


@pytest.mark.parametrize(
    ("split", "more", "message"),
    [((5, 4), {}, "for 2 ranks, there are 1"), ((8,), {}, "holds 8 tokens, the prompt 9"),
     ((9,), {"past_tokens": 4}, "needs the existing cache of 4 tokens")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(split, more, message):
    with pytest.raises(UserError, match=message):
        Runahead(tiny.llama(), None).prefill(tiny.prompt(9), split, **more)
