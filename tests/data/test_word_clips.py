import numpy as np
import pytest
import torch
from data.made_speech import RATE, MadeSpeech
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.noise import DrawnSpeech, NoisePool, NoiseSource
from lightsleeper.data.word_clips import Spoken, UtteranceClips, UtteranceMix, collate_words

SOURCE = MadeSpeech(12)
WORDS = {clip: [(0.05, 0.2, clip % 3), (0.2, 0.45, 3)] for clip in range(6)}
SPOKEN = Spoken(SOURCE, list(range(9)), WORDS, others=[9, 10, 11])
POOL = NoisePool(NoiseSource(DrawnSpeech(SOURCE, range(9))), 0)


def clips(epoch: SharedEpoch | None = None, utterances: int | None = None, **mix) -> UtteranceClips:
    ranges = {"noise_share": 0.25, "snr_db": (10.0, 20.0), "gain_db": (-20.0, -6.0), **mix}
    return UtteranceClips(SPOKEN, POOL, UtteranceMix(**ranges), utterances, 5, epoch or SharedEpoch())


def test_the_times_of_words_are_where_they_sound():
    found = clips(disturbed=False, joined=(3, 3), gap_s=(0.1, 0.2))
    for index in range(9):
        item = found[index]
        assert len(item["word"]) == len(item["begin_s"]) == len(item["end_s"])
        for word, begin, end in zip(item["word"], item["begin_s"], item["end_s"], strict=True):
            length = 0.25 if word == 3 else 0.15
            assert float(end - begin) == pytest.approx(length, abs=1e-4)
            heard = item["audio"][round(float(begin) * RATE) : round(float(end) * RATE)].numpy()
            said = [SOURCE.audio(c)[a : a + len(heard)] for c, a in _places(int(word))]
            assert max(np.abs(np.corrcoef(heard, piece)[0, 1]) for piece in said) > 0.9


def _places(word: int) -> list[tuple[int, int]]:
    return [(clip, round(begin * RATE)) for clip, events in WORDS.items() for begin, _, w in events if w == word]


def test_an_epoch_has_every_utterance_once_and_noise_beside():
    items = [clips()[index] for index in range(len(clips()))]
    assert sorted(item["clip"] for item in items if item["clip"] >= 0) == list(range(12))
    quiet = [item for item in items if item["clip"] < 0]
    assert len(quiet) == 4
    assert all(len(item["word"]) == 0 and item["audio"].abs().max() > 0 for item in quiet)


def test_shorter_epochs_take_the_utterances_in_turn():
    epoch = SharedEpoch()
    rows = clips(epoch, utterances=4)
    heard = []
    for number in range(3):
        epoch.set(number)
        heard += [rows[index]["clip"] for index in range(4)]
    assert sorted(heard) == list(range(12))


def test_items_are_pure_functions_of_seed_epoch_and_index():
    epoch = SharedEpoch()
    rows = clips(epoch)
    first = rows[3]["audio"]
    assert torch.equal(first, rows[3]["audio"])
    epoch.set(1)
    assert first.shape != rows[3]["audio"].shape or not torch.equal(first, rows[3]["audio"])


def test_peaks_lie_in_the_range_of_gains_and_speech_alone_stays_as_it_was():
    for index in range(12):
        peak = float(clips()[index]["audio"].abs().max())
        assert 10 ** (-20.1 / 20) < peak < 10 ** (-5.9 / 20)
    item = clips(disturbed=False)[0]
    said = SOURCE.audio(0)
    at = int(np.flatnonzero(item["audio"].numpy())[0])
    assert np.array_equal(item["audio"].numpy()[at : at + len(said)], said)


def test_lengths_that_batches_are_made_by_are_about_right():
    rows = clips(joined=(1, 4), gap_s=(0.2, 0.4))
    real = np.array([len(rows[index]["audio"]) / RATE for index in range(len(rows))])
    assert np.corrcoef(real, rows.seconds())[0, 1] > 0.6


def test_batches_are_padded_so_that_padding_shows():
    batch = collate_words([clips()[index] for index in (0, 8, 13)])
    assert batch["audio"].shape == (3, int(batch["samples"].max()))
    assert batch["word"].tolist()[1:] == [[-1, -1], [-1, -1]]
    assert torch.equal(batch["begin_s"].isnan(), batch["word"] < 0)
    assert torch.equal(batch["end_s"].isnan(), batch["word"] < 0)
    empty = collate_words([clips()[13]])
    assert empty["word"].tolist() == [[-1]]
    assert empty["word"].dtype is torch.int64
    assert empty["begin_s"].dtype is torch.float32
