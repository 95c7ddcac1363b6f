from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.generation.simulate import Link, best_split, lower_bound, simulate, simulate_gather
from linear_times import Times, size

SPLITS = st.lists(st.integers(1, 500), min_size=1, max_size=5)
TIMES = st.builds(
    Times,
    layers=st.integers(1, 8),
    token=st.floats(1e-6, 1e-3),
    attention=st.floats(0, 1e-6),
    own_keys=st.floats(1e-6, 1e-3),
)
FREE = Link()


@dataclass
class Equal(Times):
    """Every rank takes the same time, whatever its piece."""

    def embedding(self, own):
        return 0.0

    def keys(self, own):
        return 0.5

    def rest(self, own, before):
        return 2.0


@given(st.integers(1, 6), st.integers(1, 9))
def test_equal_ranks_on_a_free_network_take_the_time_of_one(ranks, layers):
    times = Equal(layers=layers)
    assert simulate(times, (10,) * ranks, FREE, size).ttft == pytest.approx(layers * 2.5 + times.head_s)


@given(TIMES, st.integers(1, 2000))
def test_one_rank_is_the_plain_sum(times, tokens):
    whole = times.embedding(tokens) + times.layers * (times.keys(tokens) + times.rest(tokens, 0)) + times.head()
    assert simulate(times, (tokens,), FREE, size).ttft == pytest.approx(whole)


@given(TIMES, SPLITS, st.floats(1e3, 1e9), st.floats(1, 100), st.floats(0, 1e-2))
def test_less_bandwidth_is_never_faster(times, split, bandwidth, less, latency):
    fast = simulate(times, split, Link(latency, bandwidth), size)
    slow = simulate(times, split, Link(latency, bandwidth / less), size)
    assert slow.ttft >= fast.ttft * (1 - 1e-12)


@given(TIMES, SPLITS, st.floats(1e3, 1e9))
def test_no_split_beats_its_lower_bound(times, split, bandwidth):
    assert simulate(times, split, Link(0.0, bandwidth), size).ttft >= lower_bound(times, split) * (1 - 1e-12)


@given(TIMES, SPLITS)
def test_a_link_is_busy_for_every_layers_bytes(times, split):
    link = Link(1e-4, 1e6)
    busy = simulate(times, split, link, size).busy
    tokens = 0
    for own, seconds in zip(split, busy, strict=False):
        tokens += own
        assert seconds == pytest.approx(times.layers * link.seconds(size(0, tokens)))


def test_one_layer_after_the_other_on_a_slow_link():
    """Three layers of 1 s on the link, computed in no time: the last arrives after 3 s."""
    times = Times(layers=3, token=0, attention=0, own_keys=0, embed=0, head_s=0)
    assert simulate(times, (1, 1), Link(0.0, size(0, 1)), size).ttft == pytest.approx(3.0)


@given(TIMES, SPLITS)
def test_waiting_is_what_a_rank_does_beside_its_own_work(times, split):
    done = simulate(times, split, Link(1e-3, 1e6), size)
    before = sum(split) - split[-1]
    work = times.embedding(split[-1]) + times.layers * (times.keys(split[-1]) + times.rest(split[-1], before))
    assert done.ttft == pytest.approx(work + done.waited[-1] + times.head())


@given(st.integers(64, 3000), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_the_best_chain_beats_a_gather_of_the_same_kernels_on_a_slow_link(tokens, ranks):
    times, link = Times(attention=3e-7), Link(0.0, 1e8)
    split, seconds = best_split(times, tokens, ranks, link, size, granularity=16)
    assert sum(split) == tokens
    assert seconds <= simulate_gather(times, tokens, ranks, link, size, dense=False) * 1.001
