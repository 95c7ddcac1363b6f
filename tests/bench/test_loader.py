import pytest
from lightsleeper.bench.loader import Ready, fastest


def test_batches_in_memory_can_be_read_again():
    ready = Ready([1, 2])
    assert (list(ready), list(ready), len(ready)) == ([1, 2], [1, 2], 2)


def test_a_step_counts_with_its_fastest_round():
    assert fastest([([0.1, 0.1], [1.0, 5.0]), ([0.1, 0.1], [4.0, 2.0])]) == [1.0, 2.0]
    with pytest.raises(ValueError, match="zip"):
        fastest([([], [1.0]), ([], [])])
