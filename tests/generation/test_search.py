from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.generation.search import search
from lightsleeper.generation.simulate import Link, simulate
from lightsleeper.generation.split import even
from linear_times import Times, size


def seconds_of(times, link=None):
    return lambda split: simulate(times, split, link or Link(), size).ttft


@given(st.integers(2, 4000), st.integers(1, 4), st.floats(0, 1e-6))
@settings(max_examples=30, deadline=None)
def test_a_search_is_never_worse_than_the_even_split_and_gives_early_ranks_no_fewer_tokens(tokens, ranks, attention):
    granularity = 64
    seconds = seconds_of(Times(attention=attention))
    split, tried = search(seconds, tokens, ranks, granularity)
    assert sum(split) == tokens
    assert min(split) >= 1
    assert seconds(split) <= seconds(even(tokens, ranks))
    assert all(earlier >= later - granularity for earlier, later in zip(split, split[1:], strict=False))
    assert tried[split] == min(tried.values())


def test_two_ranks_find_what_trying_every_boundary_finds():
    times = Times(attention=2e-7)
    split, tried = search(seconds_of(times), 2048, 2, granularity=32)
    every = {(first, 2048 - first): seconds_of(times)((first, 2048 - first)) for first in range(32, 2048, 32)}
    assert tried[split] == min(every.values())
    assert len(tried) < len(every) / 2


def test_every_split_is_measured_once():
    asked = []

    def seconds(split):
        asked.append(split)
        return simulate(Times(), split, Link(), size).ttft

    _, tried = search(seconds, 1000, 3)
    assert len(asked) == len(set(asked)) == len(tried)


def test_eight_ranks_share_the_work_out_almost_evenly():
    times = Times(attention=2e-7)
    split, tried = search(seconds_of(times), 8192, 8)
    # ranks that nobody waits for may keep a few strides more or less
    assert all(earlier >= later - 256 for earlier, later in zip(split, split[1:], strict=False))
    assert len(tried) < 3**7
    alone = simulate(times, (8192,), Link(), size).ttft
    assert tried[split] < 1.25 * alone / 8
    assert tried[split] < 0.8 * tried[even(8192, 8)]


def test_a_prompt_shorter_than_the_ranks_has_one_split():
    assert search(seconds_of(Times()), 3, 5)[0] == (1, 1, 1)
