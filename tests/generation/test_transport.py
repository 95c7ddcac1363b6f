import pytest
import tiny_prefill as tiny
from lightsleeper.errors import UserError
from lightsleeper.generation.ranks import Ranks
from lightsleeper.generation.transport import SlowLink

SLOW = SlowLink(latency_s=1e-3, bytes_per_s=2e6, jitter_s=5e-3)


def test_delays_on_links_and_ranks_change_no_result_and_no_run_hangs():
    with Ranks(tiny.llama(), 3, timeout_s=60, link=SLOW) as ranks:
        cases = [(0, split) for split in [(9,), (5, 4), (3, 3, 3), (1, 1, 7), (7, 1, 1)]]
        for seed in range(2):
            for results in ranks.call(tiny.compare_with_delays, cases, seed):
                assert all(result["cache"] <= 1e-5 for result in results)
                assert all(result.get("same tokens", True) for result in results)
        waited = ranks.call(tiny.waits, (6, 6, 6))
    # Rank 1's prefix of 6 tokens takes 2 x 1 ms and 6 x 128 bytes / 2 MB/s a layer at least, three layers.
    assert waited[0] < 1e-3
    assert min(waited[1:]) > 3 * 2e-3 * 0.5


@pytest.mark.parametrize("wrong", [{"latency_s": -1.0}, {"bytes_per_s": 0.0}, {"jitter_s": -1.0}])
def test_a_link_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match="a slow link needs"):
        SlowLink(**wrong)
