from pathlib import Path

import numpy as np
import pytest
import torch
from data.recordings import write_folder, write_tone
from lightsleeper.data.spoken_words import SpokenWords, WordSpec, fit, write_words
from lightsleeper.errors import UserError

TINY = {"words": ["yes", "no", "stop"], "train_clips": 8, "validation_clips": 3, "test_clips": 4, "batch_size": 8}
SPEC = WordSpec(("yes", "no"), 30, 5, 10, 18, 9, 0)


@pytest.fixture(scope="module")
def synthesised(corpus_cache: None) -> SpokenWords:
    data = SpokenWords(**TINY, seed=5, build_workers=1)
    data.setup("fit")
    return data


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    return write_folder(tmp_path / "recordings", ["yes", "no", "other"], ["a", "b", "c", "d", "e"])


def test_a_script_has_each_word_equally_often_and_no_voice_in_two_parts():
    lines = write_words(SPEC)
    assert lines == write_words(SPEC)
    counts = {(part, word): sum((line.part, line.text) == (part, word) for line in lines)
              for part in ("train", "val", "test") for word in SPEC.words}  # fmt: skip
    assert list(counts.values()) == [30, 30, 5, 5, 10, 10]
    voices = {part: {line.voice for line in lines if line.part == part} for part in ("train", "val", "test")}
    assert not voices["train"] & voices["val"]
    assert not voices["train"] & voices["test"]
    assert not voices["val"] & voices["test"]


def test_a_clip_is_padded_or_cut_to_its_length():
    clip = np.arange(1, 5, dtype=np.float32)
    assert fit(clip, 8, 0.5).tolist() == [0, 0, 1, 2, 3, 4, 0, 0]
    assert fit(clip, 8, 0.0).tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    assert fit(clip, 2, 0.5).tolist() == [2, 3]
    assert fit(clip, 2, 0.0).tolist() == [1, 2]
    assert fit(clip, 4, 0.9).tolist() == [1, 2, 3, 4]


def test_batches_are_clips_of_one_length_with_the_number_of_their_word(synthesised: SpokenWords):
    batch = next(iter(synthesised.train_dataloader()))
    assert batch["audio"].shape == (8, 16_000)
    assert batch["audio"].dtype is torch.float32
    assert batch["audio"].abs().amax(1).min() > 0.01
    for word, clip in zip(batch["word"].tolist(), batch["clip"].tolist(), strict=True):
        assert synthesised.words[word] == synthesised.said[clip]
    voices = [synthesised.speakers[clip] for clip in batch["clip"].tolist()]
    assert len(set(zip(voices, batch["speaker"].tolist(), strict=True))) == len(set(voices))
    assert sum(len(batch["word"]) for batch in synthesised.val_dataloader()) == 9
    assert [sum(len(batch["word"]) for batch in loader) for loader in synthesised.test_dataloader()] == [12]
    assert synthesised.test_names == [""]


def test_the_summary_states_sizes_and_that_no_voice_is_shared(synthesised: SpokenWords):
    summary = synthesised.summary()
    assert summary["counts"]["train"]["clips"] == 24
    assert {pair["voices"] for pair in summary["overlap"].values()} == {0}
    assert summary["hash"] == synthesised.hash


def test_training_order_and_placement_are_pure_functions_of_seed_and_epoch(synthesised: SpokenWords):
    def epoch(number: int) -> list[torch.Tensor]:
        loader = synthesised.train_dataloader()
        loader.batch_sampler.set_epoch(number)
        return [batch["audio"] for batch in loader]

    assert all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(1), strict=True))
    assert not torch.equal(epoch(0)[0], epoch(1)[0])


def test_recordings_are_split_by_speaker_and_other_words_left_out(recorded: Path):
    data = SpokenWords(["no", "yes"], path=recorded, clip_seconds=0.5, seed=1)
    data.check()
    data.setup("fit")
    summary = data.summary()
    assert sum(part["clips"] for part in summary["counts"].values()) == 5 * 2 * 2
    assert [part["voices"] for part in summary["counts"].values()] == [2, 1, 2]
    assert {pair["voices"] for pair in summary["overlap"].values()} == {0}
    batch = next(iter(data.val_dataloader()))
    assert batch["audio"].shape == (4, 8000)
    assert sorted(batch["word"].tolist()) == [0, 0, 1, 1]


def test_the_hash_follows_the_words_and_the_recordings_and_the_batches_the_seed(recorded: Path):
    def made(words: tuple[str, ...] = ("no", "yes"), seed: int = 1) -> SpokenWords:
        data = SpokenWords(list(words), path=recorded, clip_seconds=0.5, seed=seed)
        data.setup("fit")
        return data

    one, same, other = (made(seed=seed) for seed in (1, 1, 2))
    first, again, later = ([batch["audio"] for batch in data.train_dataloader()] for data in (one, same, other))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, later, strict=True))
    assert same.hash == one.hash != made(("other", "yes")).hash
    write_tone(recorded / "a" / "no_0.wav", 0.3, 1234)
    assert made().hash != one.hash


def test_named_speakers_are_tested(recorded: Path):
    data = SpokenWords(["no", "yes"], path=recorded, test_speakers=["c"], seed=1)
    data.setup("test")
    assert {data.speakers[clip] for clip in data.parts["test"]} == {"c"}


def test_recordings_without_speakers_are_a_test_set_of_their_own(recorded: Path):
    manifest = recorded / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",e\r\n", ",\r\n").replace(",e\n", ",\n"))
    data = SpokenWords(["no", "yes"], path=recorded, seed=1)
    data.setup("fit")
    assert data.test_names == ["", "unknown_speakers"]
    named, unknown = (torch.cat([batch["speaker"] for batch in loader]) for loader in data.test_dataloader())
    assert len(named.unique()) < len(named)
    assert len(unknown.unique()) == len(unknown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ["yes"]}, "two or more different ones"),
        ({"words": ["yes", "Yes"]}, "two or more different ones"),
        ({"train_clips": 0}, "train_clips must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"held_out_voices": 85}, "leave none of the 89 voices"),
        ({"clip_seconds": 0.0}, "clip_seconds must lie between"),
        ({"test_fraction": 1.0}, "test_fraction must lie between 0 and 1, got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        SpokenWords(**arguments)


def test_a_word_that_nobody_says_is_refused(recorded: Path):
    with pytest.raises(UserError, match="words: 'yess' does not occur in the recordings. Did you mean 'yes'"):
        SpokenWords(["yess", "no"], path=recorded).check()


@pytest.mark.real_data
def test_spoken_digits_are_split_by_speaker(real_data: Path):
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    data = SpokenWords(digits, path=real_data / "spoken_digits", test_fraction=0.33, seed=7)
    data.setup("fit")
    counts = data.summary()["counts"]
    assert [part["voices"] for part in counts.values()] == [3, 1, 2]
    assert sum(part["clips"] for part in counts.values()) == 3000
