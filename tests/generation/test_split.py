import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.errors import UserError
from lightsleeper.generation.split import by_ratios, checked, effective_ranks, ends, even


@given(st.integers(1, 5000), st.integers(1, 16))
def test_an_even_split_has_pieces_that_differ_by_one_at_most_and_no_empty_one(tokens, ranks):
    split = even(tokens, ranks)
    assert sum(split) == tokens
    assert len(split) == effective_ranks(tokens, ranks) == min(tokens, ranks)
    assert min(split) >= 1
    assert max(split) - min(split) <= 1
    assert list(split) == sorted(split, reverse=True)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_ratios_of_whole_numbers_give_them_back(pieces):
    tokens = sum(pieces)
    assert by_ratios([piece / tokens for piece in pieces], tokens) == tuple(pieces)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8), st.integers(8, 5000))
def test_the_largest_remainder_is_within_one_token_unless_a_piece_would_be_empty(ratios, tokens):
    split = by_ratios(ratios, tokens)
    wanted = [ratio * tokens / sum(ratios) for ratio in ratios]
    assert sum(split) == tokens
    assert min(split) >= 1
    if min(wanted) >= 1:
        assert all(abs(piece - share) < 1 + 1e-6 for piece, share in zip(split, wanted, strict=True))


def test_more_ratios_than_tokens_are_refused():
    with pytest.raises(ValueError, match="2 tokens cannot fill 3 pieces"):
        by_ratios([1, 1, 1], 2)


@pytest.mark.parametrize(
    ("split", "message"),
    [((), "at least one token"), ((5, 0, 4), "at least one token"), ((5, 5), "holds 10 tokens, the prompt 9"),
     ((3, 3, 3), "for 3 ranks, there are 2")],
)  # fmt: skip
def test_a_split_that_does_not_fit_is_refused(split, message):
    with pytest.raises(UserError, match=message):
        checked(split, 9, 2)


def test_ends_are_the_tokens_that_a_rank_sees():
    assert ends((4, 3, 2)) == (4, 7, 9)
