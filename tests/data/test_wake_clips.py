import numpy as np
import pytest
import torch
from data.made_speech import MadeSpeech
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.noise import NoisePool, NoiseSource
from lightsleeper.data.wake_clips import Mixture, Piece, Pieces, WakeClips, sounded

RATE = 16_000
SOURCE = MadeSpeech(20)
MIXTURE = Mixture(2 * RATE, 0.4, 0.2, 0.1, (0.0, 20.0), (-30.0, 0.0))
POOL = NoisePool(NoiseSource(), 0)


def pieces(clips: range, phones: bool = True) -> list[Piece]:
    return [Piece(SOURCE, clip, 0.1, 0.4, ((0.1, 0.25, 7), (0.25, 0.4, 8)) if phones else None) for clip in clips]


def rows(clips: int = 50, mixture: Mixture = MIXTURE, seed: int = 3, **more) -> tuple[WakeClips, SharedEpoch]:
    origins = more.get("origins", [Pieces(pieces(range(5)), pieces(range(5, 8)), pieces(range(8, 20)))])
    epoch = SharedEpoch()
    return WakeClips(origins, more.get("weights", [1.0]), POOL, mixture, clips, seed, epoch), epoch


def test_shares_are_as_asked_and_every_keyword_takes_its_turn():
    data, _ = rows(500)
    items = [data[index] for index in range(500)]
    kinds = {name: sum(item["clip"] in clips for item in items) / 500
             for name, clips in (("keyword", range(5)), ("near", range(5, 8)), ("noise", (-1,)))}  # fmt: skip
    assert kinds["keyword"] == sum(item["keyword"] for item in items) / 500 == pytest.approx(0.4)
    assert kinds["near"] == pytest.approx(0.2, abs=0.06)
    assert kinds["noise"] == pytest.approx(0.1, abs=0.05)
    turns = [item["clip"] for item in items if item["keyword"]]
    assert [turns.count(clip) for clip in range(5)] == [40] * 5


def test_keywords_of_two_origins_take_turns_by_their_shares_and_none_is_missed():
    spoken = Pieces(pieces(range(4)), (), pieces(range(8, 20)))
    recorded = Pieces(pieces(range(4, 8)), (), pieces(range(8, 20)))
    data, epoch = rows(50, origins=[spoken, recorded], weights=[0.75, 0.25])
    turns = []
    for number in range(4):  # 20 keywords each
        epoch.set(number)
        turns += [item["clip"] for item in map(data.__getitem__, range(50)) if item["keyword"]]
    assert [turns.count(clip) for clip in range(8)] == [15] * 4 + [5] * 4
    assert set(turns[:16]) == set(range(8))


def test_times_and_phones_say_where_the_keyword_is():
    quiet = Mixture(2 * RATE, 0.999, 0.0, 0.0, (60.0, 60.0), (-1.0, -1.0))
    data, _ = rows(40, quiet)
    for index in range(39):
        item = data[index]
        begin, end = float(item["begin_s"]), float(item["end_s"])
        assert 0 <= begin < end <= 2
        assert end - begin == pytest.approx(0.3, abs=1e-5)
        first = round(begin * 100)
        own = item["phones"][first + 1 : first + 29]
        assert own[:13].tolist() == [7] * 13
        assert own[-13:].tolist() == [8] * 13
        assert item["phones"].shape == (200,)
        assert set(item["phones"].tolist()) <= {0, 7, 8}


def test_negatives_have_no_times():
    data, _ = rows()
    item = data[49]
    assert item["keyword"] == 0
    assert item["begin_s"].isnan()
    assert item["end_s"].isnan()


def test_what_is_not_known_of_a_recording_is_said_so():
    data, _ = rows(20, origins=[Pieces(pieces(range(5), phones=False), (), pieces(range(8, 20), phones=False))])
    assert set(data[0]["phones"].tolist()) <= {0, -1}
    assert (data[0]["phones"] == -1).any()


def test_an_item_is_a_pure_function_of_seed_epoch_and_index():
    one, epoch = rows()
    two, _ = rows()
    first = one[7]["audio"]
    assert torch.equal(first, two[7]["audio"])
    epoch.set(1)
    assert not torch.equal(first, one[7]["audio"])
    assert not torch.equal(first, rows(seed=4)[0][7]["audio"])


def test_levels_lie_in_the_range_and_samples_in_full_scale():
    loud = Mixture(2 * RATE, 0.4, 0.2, 0.1, (0.0, 20.0), (-20.0, 10.0))
    peaks = torch.stack([rows(mixture=loud)[0][index]["audio"] for index in range(0, 50, 2)]).abs().amax(1)
    assert peaks.max() == 1  # above 0 dB they clip
    assert peaks.min() >= 0.0999


def test_origins_share_by_weight():
    origins = [
        Pieces(pieces(range(2)), (), pieces(range(8, 10))),
        Pieces(pieces(range(2, 5)), (), pieces(range(10, 20))),
    ]
    data, _ = rows(400, origins=origins, weights=[0.25, 0.75])
    chosen = [data[index]["clip"] for index in range(160)]
    assert np.mean([clip < 2 for clip in chosen]) == pytest.approx(0.25, abs=0.1)


def test_phones_take_the_engines_times_where_they_agree_and_shares_where_not():
    agreed = sounded([[1, 2], [3]], [0.0, 0.5], [0.4, 0.9], [0.0, 0.1, 0.5])
    assert agreed == ((0.0, 0.1, 1), (pytest.approx(0.1), 0.4, 2), (0.5, 0.9, 3))
    fewer = sounded([[1, 2, 3, 4]], [0.0], [0.4], [0.0, 0.1])
    assert [sound[0] for sound in fewer] == pytest.approx([0.0, 0.05, 0.1, 0.25])
    assert fewer[-1][1] == pytest.approx(0.4)
