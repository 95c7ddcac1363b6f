import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.recordings import write_folder, write_tone
from lightsleeper.data.streams import Joined, Scenery
from lightsleeper.data.strung_words import Narrowed, StrungWords
from lightsleeper.errors import UserError

TINY: dict[str, Any] = {
    "val_speech_minutes": 0.2, "val_quiet_minutes": 0.1, "test_speech_minutes": 0.3, "test_quiet_minutes": 0.1,
    "chunk_seconds": 2.4, "batch_size": 8, "seed": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three words by six speakers, two takes each."""
    return write_folder(tmp_path / "people", ["one", "two", "three"], list("abcdef"))


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Six recordings of running speech, one of which says "two"."""
    folder = tmp_path / "orders"
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "contains"))
        for number in range(6):
            write_tone(folder / f"{number}.wav", 1.5, 150 + 10 * number)
            writer.writerow((f"{number}.wav", "Two; sugar" if number == 3 else "twofold; coffee"))
    return folder


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Speech Commands in miniature: four words, ten speakers, two of them validate and two test."""
    folder = tmp_path / "commands"
    for number, word in enumerate(("go", "left", "no", "yes")):
        for speaker in range(10):
            write_tone(folder / word / f"s{speaker}_nohash_0.wav", 0.6, 200 + 100 * number + speaker)
    write_tone(folder / "_background_noise_" / "tap.wav", 3.0, 50)
    for name, speakers in (("validation_list.txt", (0, 1)), ("testing_list.txt", (2, 3))):
        lines = [f"{word}/s{s}_nohash_0.wav" for word in ("go", "left", "no", "yes") for s in speakers]
        (folder / name).write_text("\n".join(lines))
    return folder


def test_people_are_divided_by_speaker(people: Path):
    data = StrungWords(people, **TINY)
    data.setup("fit")
    assert data.words == ["one", "three", "two"]
    summary = data.summary()
    assert [summary["counts"][part]["speakers"] for part in ("train", "val", "test")] == [3, 1, 2]
    assert all(set(shared.values()) == {0} for shared in summary["overlap"].values())
    assert summary["vocabulary"] == {"one": [6, 2, 4], "three": [6, 2, 4], "two": [6, 2, 4]}


def test_the_speakers_of_the_test_can_be_named(people: Path):
    data = StrungWords(people, test_speakers=["b"], **TINY)
    data.setup("fit")
    assert data.members("test")["speakers"] == {"b"}
    with pytest.raises(UserError, match="test_speakers: 'x' does not occur"):
        StrungWords(people, test_speakers=["x"], **TINY).check()


def test_words_lie_where_they_sound_in_clips_and_streams(people: Path):
    data = StrungWords(people, **TINY)
    data.setup("fit")
    for batch in data.train_dataloader():
        known = batch["word"] >= 0
        lengths = (batch["end_s"] - batch["begin_s"])[known]
        assert ((lengths > 0.2) & (lengths < 0.45)).all()
        assert known.sum(1).max() <= 4
    for stream in data.streams("test").values():
        gaps = [b[0] - a[1] for a, b in zip(stream.events, stream.events[1:], strict=False)]
        assert all(gap > 0.1 for gap in gaps)
    assert sum(len(stream.events) for stream in data.streams("test").values()) > 8


def test_words_that_are_not_spotted_are_said_and_are_no_events(people: Path):
    data = StrungWords(people, words=["two"], **TINY)
    data.setup("fit")
    stream = next(s for s in data.streams("test").values() if isinstance(s, Scenery) and s.content == "speech")
    assert 0 < len(stream.events) < len(stream.placed)
    assert {word for _, _, word in stream.events} == {0}


def test_negatives_train_and_test_apart_and_those_that_say_a_word_are_left_out(people: Path, orders: Path):
    data = StrungWords(people, negatives=[str(orders)], **TINY)
    data.setup("fit")
    streams = [stream for stream in data.streams("test").values() if stream.content == "negatives"]
    assert [type(stream) for stream in streams] == [Joined]
    assert streams[0].events == []
    assert streams[0].samples % 3840 == 0
    assert data.summary()["negatives left out for a word of the vocabulary"] == 1
    apart = [set(data.spoken[part].others) for part in ("train", "val", "test")]
    assert [len(some) for some in apart] == [3, 1, 1]
    assert not apart[0] & apart[1] | apart[0] & apart[2] | apart[1] & apart[2]
    heard = {int(clip) for batch in data.train_dataloader() for clip in batch["clip"]}
    assert apart[0] <= heard


@pytest.mark.parametrize("others", [["x", "a"], ["a", "x", "y"], ["u", "v/1", "w/1", "x", "y", "z"]], ids=" ".join)
def test_nobody_whose_name_is_known_speaks_negatives_in_two_parts(people: Path, tmp_path: Path, others: list[str]):
    write_folder(tmp_path / "talk", ["other"], others)
    data = StrungWords(people, negatives=[str(tmp_path / "talk")], **TINY)
    data.setup("fit")
    talkers = [{data.speakers[clip] for clip in data.spoken[part].others} for part in ("train", "val", "test")]
    assert set.union(*talkers) == set(others)
    assert not talkers[0] & talkers[1] | talkers[0] & talkers[2] | talkers[1] & talkers[2]
    summary = data.summary()
    assert all(shared["speakers"] == 0 for shared in summary["overlap"].values())
    assert summary["negatives whose speaker is not named"] == 0
    if "a" in others:  # who says words, too
        part = next(part for part in range(3) if "a" in talkers[part])
        assert "a" in {data.speakers[clip] for clip in data.spoken[("train", "val", "test")[part]].clips}


def test_speech_commands_are_divided_by_their_lists(commands: Path):
    data = StrungWords(commands, noise_kinds=["babble"], **TINY)
    data.setup("fit")
    assert data.words == ["go", "left", "no", "yes"]
    assert [data.summary()["counts"][part]["utterances"] for part in ("train", "val", "test")] == [24, 8, 8]
    assert data.members("test")["speakers"] == {"s2", "s3"}
    assert "split by lists" in data.summary()["protocol"]


def test_speech_lies_on_the_chosen_kind_of_noise_at_the_chosen_snr(commands: Path):
    data = StrungWords(commands, noise_kinds=["babble"], stream_snr_db=(10.0, 40.0), **TINY)
    data.setup("fit")
    for stream in data.streams("test").values():
        assert isinstance(stream, Scenery)
        if stream.content == "speech":
            assert {passage.noise for passage in stream.passages} == {"babble"}
            assert all(10 <= passage.snr_db <= 40 for passage in stream.passages)
    with pytest.raises(UserError, match="noise 'bable' is none of .* Did you mean 'babble'"):
        StrungWords(commands, noise_kinds=["bable"], **TINY).setup("fit")


def test_recorded_noise_is_divided_too(people: Path, tmp_path: Path):
    for number in range(3):
        write_tone(tmp_path / "noise" / f"{number}.wav", 2.0, 60 + number)
    data = StrungWords(people, noise=tmp_path / "noise", noise_kinds=["recorded"], **TINY)
    data.setup("fit")
    assert data.summary()["overlap"]["train/test"]["noise recordings"] == 0
    assert data.summary()["counts"]["test"]["noise recordings"] == 1


def test_a_narrow_band_is_narrow_for_all_and_moves_nothing(people: Path):
    data = StrungWords(people, **TINY)
    data.setup("fit")
    clicks = np.zeros(8000, np.float32)
    clicks[[1000, 5000]] = 1.0

    class Clicks:
        def audio(self, clip: int) -> np.ndarray:
            return clicks

        def seconds(self, clip: int) -> float:
            return 0.5

    heard = Narrowed(Clicks(), 8000).audio(0)
    assert len(heard) == 8000
    assert sorted(np.argsort(np.abs(heard))[-2:].tolist()) == [1000, 5000]
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum[2200:].max() < 0.05 * spectrum.max()  # above 4.4 kHz


def test_training_repeats_with_its_seed(people: Path):
    def first(seed: int) -> torch.Tensor:
        data = StrungWords(people, **{**TINY, "seed": seed})
        data.setup("fit")
        return next(iter(data.train_dataloader()))["audio"]

    assert torch.equal(first(5), first(5))
    assert not torch.equal(first(5), first(6))


def test_the_hash_follows_the_recordings_and_what_is_made_of_them(people: Path):
    key = StrungWords(people, **TINY).summary()["hash"]
    assert StrungWords(people, **TINY).summary()["hash"] == key
    assert StrungWords(people, words=["two"], **TINY).summary()["hash"] != key
    (people / "a" / "one_0.wav").write_bytes((people / "a" / "two_1.wav").read_bytes())
    assert StrungWords(people, **TINY).summary()["hash"] != key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ["one", "one"]}, "words must be different ones"),
        ({"words_per_clip": (0, 2)}, "words_per_clip must be a fewest and a most"),
        ({"bandwidth_hz": 100}, "bandwidth_hz must lie between 4000 and 16000"),
        ({"test_fraction": 1.0}, "test_fraction must lie between 0 and 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        StrungWords("anywhere", **arguments)


def test_what_cannot_work_is_refused_before_anything_is_decoded(people: Path, tmp_path: Path):
    with pytest.raises(UserError, match="words: 'tow' does not occur in the recordings. Did you mean 'two'"):
        StrungWords(people, words=["tow"], **TINY).check()
    with pytest.raises(UserError, match="does not exist"):
        StrungWords(tmp_path / "nowhere", **TINY).check()
    with pytest.raises(UserError, match="does not exist"):
        StrungWords(people, negatives=[str(tmp_path / "nowhere")], **TINY).check()


@pytest.mark.real_data
def test_spoken_digits_on_recorded_noise_with_coffee_orders(real_data: Path):
    data = StrungWords(
        real_data / "spoken_digits", negatives=[str(real_data / "coffee_orders")], bandwidth_hz=8000,
        noise=real_data / "speech_commands_sample" / "_background_noise_", noise_kinds=["recorded"],
    )  # fmt: skip
    data.check()
    data.setup("fit")
    counts = data.summary()["counts"]
    assert [counts[part]["speakers"] for part in ("train", "val", "test")] == [3, 1, 2]
    assert counts["test"]["minutes of negatives"] > 5
    assert counts["test"]["placed words"] > 500
