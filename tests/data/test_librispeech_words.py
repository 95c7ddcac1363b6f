from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.librispeech import RATE, WORD_S, WORDS, utterance, write_subset
from lightsleeper.data.librispeech_words import LibriSpeechWords
from lightsleeper.data.streams import Joined
from lightsleeper.errors import UserError

SUBSETS = {"train-clean-100": [1, 2, 3], "dev-clean": [4], "test-clean": [5, 6], "test-other": [7]}
TINY: dict[str, Any] = {
    "train_subsets": ["train-clean-100"], "vocabulary": 4, "longest_seconds": 40.0, "val_quiet_minutes": 0.1,
    "test_quiet_minutes": 0.1, "chunk_seconds": 2.4, "batch_size": 2, "workers": 0, "seed": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["text", "csv"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for subset, speakers in SUBSETS.items():
        write_subset(tmp_path / "libri", subset, speakers, layout=request.param)
    return tmp_path / "libri"


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for subset, speakers in SUBSETS.items():
        write_subset(tmp_path / "libri", subset, speakers)
    return tmp_path / "libri"


def test_words_have_the_times_of_their_alignments(corpus: Path):
    data = LibriSpeechWords(corpus, words=["river", "two"], **TINY)
    data.check()
    data.setup("fit")
    spoken = data.spoken["train"]
    for clip in spoken.clips:
        said, at, expected = utterance(clip + 1, 6), 0.0, []
        for word in said:
            if word in ("river", "two"):
                expected.append((at, at + WORD_S, ("river", "two").index(word)))
            at += WORD_S if word else 0.2
        found = spoken.words[clip]
        assert [word for _, _, word in found] == [word for _, _, word in expected]
        assert np.allclose([event[:2] for event in found], [event[:2] for event in expected], atol=2e-3)


def test_the_vocabulary_is_the_most_frequent_content_words_of_training(librispeech: Path):
    data = LibriSpeechWords(librispeech, **TINY)
    assert data.words == ["friend", "guard", "river", "trend"]  # "too" is of a closed class
    assert LibriSpeechWords(librispeech, **{**TINY, "vocabulary": 5}).words[-1] == "two"
    with pytest.raises(UserError, match="a vocabulary of 6 words was asked for; the training texts have 5"):
        assert LibriSpeechWords(librispeech, **{**TINY, "vocabulary": 6}).words
    assert "too" in LibriSpeechWords(librispeech, stop_words=True, **{**TINY, "vocabulary": 6}).words


def test_clean_and_other_speech_are_tested_apart_and_every_speaker_is_a_stream(librispeech: Path):
    data = LibriSpeechWords(librispeech, **TINY)
    data.setup("fit")
    assert data.test_names == ("", "other")
    clean, other = (list(data.streams(part).values()) for part in ("test", "test other"))
    assert [stream.content for stream in clean] == ["speech", "speech", "babble", "noise", "silence"]
    assert [stream.content for stream in other] == ["speech"]
    loaders = data.test_dataloader()
    assert len(loaders) == 2
    chunks = list(loaders[0])
    assert sum(chunk["audio"].shape[1] for chunk in chunks) == sum(stream.samples for stream in clean)
    assert {chunk["stream"] for chunk in chunks}.isdisjoint({chunk["stream"] for chunk in loaders[1]})


def test_words_sound_in_a_stream_at_their_times(librispeech: Path):
    data = LibriSpeechWords(librispeech, **TINY)
    data.setup("fit")
    stream = data.streams("test other")[next(iter(data.streams("test other")))]
    assert isinstance(stream, Joined)
    for begin, end, word in stream.events:
        sound = stream.read(round((begin + 0.05) * RATE), round((end - begin - 0.1) * RATE))
        hertz = np.argmax(np.abs(np.fft.rfft(sound))) * RATE / len(sound)
        assert hertz == pytest.approx(200 + 100 * WORDS.index(data.words[int(word)]), abs=3)


def test_recordings_are_trained_on_as_they_are_where_asked(librispeech: Path):
    data = LibriSpeechWords(librispeech, disturbed=False, noise_share=0.0, **TINY)
    data.setup("fit")
    heard = {int(clip): b["audio"][row] for b in data.train_dataloader() for row, clip in enumerate(b["clip"])}
    assert sorted(heard) == [0, 1, 2]
    assert float(heard[0].abs().max()) == pytest.approx(0.3, abs=1e-3)


def test_the_same_seed_gives_the_same_batches_and_the_same_words_the_same_hash(librispeech: Path):
    def made(**other: Any) -> LibriSpeechWords:
        data = LibriSpeechWords(librispeech, **{**TINY, **other})
        data.setup("fit")
        return data

    one, same, other = made(), made(), made(seed=4)
    first, again, later = (next(iter(data.train_dataloader()))["audio"] for data in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert one.summary()["hash"] == same.summary()["hash"] == other.summary()["hash"]
    assert one.summary()["hash"] != made(vocabulary=3).summary()["hash"]


def test_long_utterances_are_not_trained_on(librispeech: Path):
    data = LibriSpeechWords(librispeech, **{**TINY, "longest_seconds": 5.0})
    with pytest.raises(UserError, match="no utterance of at most 5.0 s"):
        data.setup("fit")


def test_the_summary_publishes_the_words_and_that_no_speaker_is_shared(librispeech: Path):
    summary = LibriSpeechWords(librispeech, **TINY).summary()
    assert summary["vocabulary"] == {word: [18, 6, 12, 6] for word in ("friend", "guard", "river", "trend")}
    assert summary["overlap"]["train/test"] == {"speakers": 0, "recordings": 0}
    assert summary["overlap"]["test/test other"] == {"speakers": 0, "recordings": 0}
    assert summary["subsets"]["test other"] == ["test-other"]
    assert summary["counts"]["test other"]["speakers"] == 1


def test_a_data_set_of_the_hub_is_unpacked_with_its_alignments(librispeech: Path, tmp_path: Path):
    from datasets import Audio, Dataset, DatasetDict

    def rows(subset: str, speakers: list[int]) -> Dataset:
        found: dict[str, list[Any]] = {"id": [], "audio": [], "words": []}
        for speaker in speakers:
            at, words = 0.0, []
            for word in utterance(speaker, 6):
                if word:
                    words.append({"word": word, "start": at, "end": at + WORD_S})
                at += WORD_S if word else 0.2
            found["id"].append(f"{speaker}-100-0000")
            found["audio"].append(str(librispeech / subset / str(speaker) / "100" / f"{speaker}-100-0000.flac"))
            found["words"].append(words)
        return Dataset.from_dict(found).cast_column("audio", Audio(decode=False))

    splits = {subset.replace("-", "_"): rows(subset, speakers) for subset, speakers in SUBSETS.items()}
    DatasetDict(splits).save_to_disk(str(tmp_path / "hub"))
    own = LibriSpeechWords(tmp_path / "hub", **TINY)
    own.check()
    own.setup("fit")
    disk = LibriSpeechWords(librispeech, **TINY)
    disk.setup("fit")
    assert own.words == disk.words
    for part in ("train", "val", "test", "test other"):
        for clip in disk.spoken[part].clips:
            assert np.allclose(own.spoken[part].words[clip], disk.spoken[part].words[clip], atol=2e-3)
            assert np.array_equal(own.spoken[part].source.audio(clip), disk.spoken[part].source.audio(clip))
    with pytest.raises(UserError, match="has no split 'dev-other'"):
        LibriSpeechWords(tmp_path / "hub", val_subsets=["dev-other"], **TINY).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_subsets": ["train-clean"]}, "'train-clean' is no subset of LibriSpeech. Did you mean"),
        ({"train_subsets": ["dev-clean"]}, "a subset is in two parts"),
        ({"vocabulary": 0}, "vocabulary must be at least 1"),
        ({"words": ["a", "a"]}, "words must be different ones"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        LibriSpeechWords("anywhere", **arguments)


def test_missing_folders_and_alignments_are_refused_before_anything_is_read(librispeech: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        LibriSpeechWords(tmp_path / "nowhere", **TINY).check()
    with pytest.raises(UserError, match="has no folder dev-other"):
        LibriSpeechWords(librispeech, val_subsets=["dev-other"], **TINY).check()
    (librispeech / "dev-clean/4/100/4-100.alignment.txt").unlink()
    with pytest.raises(UserError, match="no word alignments of dev-clean"):
        LibriSpeechWords(librispeech, **TINY).check()
