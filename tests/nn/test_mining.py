import torch
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.nn.mining import hardest


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40), st.integers(0, 50))
def test_exactly_the_largest_losses_among_negatives_and_all_positives_are_kept(rows, keep: int):
    losses, keyword = torch.tensor([float(r[0]) for r in rows]), torch.tensor([int(r[1]) for r in rows])
    chosen = hardest(losses, keyword, keep)
    negative = keyword == 0
    assert chosen[~negative].all()
    kept = losses[negative & chosen]
    assert len(kept) == min(keep, int(negative.sum()))
    assert sorted(kept.tolist()) == sorted(losses[negative].tolist())[len(losses[negative]) - len(kept) :]


def test_equal_losses_keep_the_first_and_no_gradient_flows_through_the_choice():
    losses = torch.ones(4, requires_grad=True)
    assert hardest(losses, torch.zeros(4), 2).tolist() == [True, True, False, False]
