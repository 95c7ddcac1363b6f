from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightsleeper.data.kept import KeptStream
from lightsleeper.data.running_words import RunningWords
from lightsleeper.data.streams import Scenery
from lightsleeper.errors import UserError

TINY: dict[str, Any] = {
    "vocabulary": 8, "train_sentences": 40, "sentence_words": (2, 5), "val_speech_minutes": 0.5,
    "val_quiet_minutes": 0.2, "test_speech_minutes": 2.0, "test_quiet_minutes": 0.2, "batch_size": 8,
    "chunk_seconds": 2.4, "build_workers": 1, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def spoken(corpus_cache: None) -> RunningWords:
    data = RunningWords(**TINY)
    data.setup("fit")
    return data


def test_words_are_known_before_anything_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    assert len(RunningWords(**TINY).words) == 8
    assert not list(tmp_path.iterdir())


def test_training_batches_hold_utterances_with_their_words(spoken: RunningWords):
    batches = list(spoken.train_dataloader())
    batch = batches[0]
    assert batch["audio"].dtype is torch.float32
    assert batch["audio"].shape == (8, int(batch["samples"].max()))
    assert batch["audio"].abs().max() <= 1
    assert batch["word"].max() < 8
    clips = [int(clip) for b in batches for clip in b["clip"] if clip >= 0]
    assert sorted(clips) == spoken.corpus.clips("train").tolist()
    said = Counter(word for clip in clips for word in spoken.corpus.texts[clip].split() if word in spoken.words)
    found = Counter(spoken.words[word] for b in batches for word in b["word"].flatten().tolist() if word >= 0)
    assert said == found
    for b in batches:
        known = b["word"] >= 0
        assert (b["end_s"][known] > b["begin_s"][known]).all()
        assert (b["end_s"][known] * 16_000 <= b["samples"][:, None].expand_as(known)[known] + 1).all()


def test_streams_of_every_content_are_in_the_one_test_set(spoken: RunningWords):
    (loader,) = spoken.test_dataloader()
    contents: dict[str, set[int]] = {}
    for chunk in loader:
        assert chunk["audio"].shape == (1, 38_400)
        contents.setdefault(chunk["content"], set()).add(chunk["stream"])
    assert {content: len(streams) for content, streams in contents.items()} == {
        "speech": 2, "babble": 1, "noise": 1, "silence": 1,
    }  # fmt: skip
    for stream, laid in spoken.streams("test").items():
        events = spoken.stream_events(stream)
        assert bool(events) == (laid.content == "speech")
        assert events == sorted(events)
        assert all(0 <= begin < end <= laid.samples / 16_000 for begin, end, _ in events)


def test_no_utterance_of_a_test_is_heard_twice(spoken: RunningWords):
    placed = [p.clip for s in spoken.streams("test").values() if isinstance(s, Scenery) for p in s.placed]
    assert placed
    assert len(set(placed)) == len(placed)


def test_silence_is_far_below_speech(spoken: RunningWords):
    level: dict[str, float] = {}
    for stream in spoken.streams("test").values():
        audio = stream.read(0, stream.samples)
        level[stream.content] = 10 * np.log10(float(np.mean(audio.astype(np.float64) ** 2)))
    assert level["silence"] < -58
    assert level["speech"] > level["silence"] + 20
    assert level["babble"] > level["silence"]


def test_a_stream_is_the_same_wherever_it_is_laid(spoken: RunningWords):
    again = RunningWords(**{**TINY, "seed": 6})
    again.setup("test")
    for stream, laid in again.streams("test").items():
        assert laid.events == spoken.stream_events(stream)
        assert np.array_equal(laid.read(0, 16_000), spoken.streams("test")[stream].read(0, 16_000))


def test_validation_is_kept_and_the_test_is_not(spoken: RunningWords):
    assert {type(stream) for stream in spoken.streams("val").values()} == {KeptStream}
    assert {type(stream) for stream in spoken.streams("test").values()} == {Scenery}
    assert spoken.streams("val").keys().isdisjoint(spoken.streams("test"))


def test_the_summary_publishes_the_vocabulary_and_that_nothing_is_shared(spoken: RunningWords):
    summary = spoken.summary()
    assert list(summary["vocabulary"]) == spoken.words
    train = sum(counts[0] for counts in summary["vocabulary"].values())
    assert train == summary["counts"]["train"]["words of the vocabulary"] > 40
    assert summary["counts"]["test"]["minutes of speech"] == 2.0
    assert 10 < summary["counts"]["test"]["voices"] <= 18
    for shared in summary["overlap"].values():
        assert shared == {"voices": 0, "sentences": 0}
    assert summary["hash"] == RunningWords(**TINY).summary()["hash"]
    assert summary["hash"] != RunningWords(**{**TINY, "stream_snr_db": (0.0, 1.0)}).summary()["hash"]


def test_kept_clips_are_what_would_be_made(spoken: RunningWords):
    kept = RunningWords(**TINY, keep_clips=1)
    kept.setup("fit")
    for made, read in zip(spoken.train_dataloader(), kept.train_dataloader(), strict=True):
        assert torch.equal(made["word"], read["word"])
        assert torch.equal(made["begin_s"].nan_to_num(-1), read["begin_s"].nan_to_num(-1))
        assert torch.allclose(made["audio"], read["audio"], atol=1 / 32768)


def test_sentences_of_a_text_are_spoken(corpus_cache: None, tmp_path: Path):
    text = tmp_path / "text.txt"
    places = ("in the garden", "at school", "near the river", "on the hill", "under a tree", "behind the house")
    text.write_text(" ".join(f"The {who} plays {place}." for who in ("child", "mother", "doctor") for place in places))
    data = RunningWords(**{**TINY, "vocabulary": 3, "sentence_words": (4, 9)}, text=text)
    data.setup("fit")
    assert data.words[0] == "plays"
    assert set(data.corpus.texts) <= {line.strip().lower() for line in text.read_text().split(".")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be at least 1, got 0"),
        ({"sentence_words": (5, 3)}, "sentence_words must be a fewest and a most"),
        ({"keyword_share": 1.0}, "keyword_share is 1.0"),
        ({"noise_share": 1.0}, "noise_share is 1.0"),
        ({"snr_db": (20.0, 0.0)}, "snr_db must be a lowest and a highest"),
        ({"chunk_seconds": 0.015}, "multiple of 0.02"),
        ({"held_out_voices": 85}, "leave none of the 89 voices"),
        ({"test_speech_minutes": 0.0}, "test_speech_minutes must be above 0"),
        ({"val_quiet_minutes": -1.0}, "val_quiet_minutes must be at least 0"),
        ({"keep_clips": -1}, "keep_clips must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        RunningWords(**arguments)


def test_a_missing_text_or_noise_is_refused_before_anything_is_built(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read"):
        RunningWords(text=tmp_path / "nowhere").check()
    with pytest.raises(UserError, match="does not exist"):
        RunningWords(noise=tmp_path / "nowhere").check()
