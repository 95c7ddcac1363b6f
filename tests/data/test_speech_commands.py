import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.recordings import write_tone
from lightsleeper.data.speech_commands import SILENCE, TEN, UNKNOWN, SpeechCommands, part_by_hash, shifted, split_files
from lightsleeper.errors import UserError

OTHERS = ("bed", "cat")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve words by six speakers, two of whom the lists name, and two recordings of noise."""
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "commands"
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for number, word in enumerate((*TEN, *OTHERS)):
        for speaker in range(6):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            write_tone(folder / name, 0.8 if speaker else 1.0, 300 + 20 * number)
            if speaker in (4, 5):
                lists["validation" if speaker == 4 else "testing"].append(name)
    for kind, names in lists.items():
        (folder / f"{kind}_list.txt").write_text("\n".join(names) + "\n")
    for number in range(2):
        write_tone(folder / "_background_noise_" / f"{number}.wav", 3.0, 100 + number)
    return folder


def opened(folder: Path, **arguments: Any) -> SpeechCommands:
    data = SpeechCommands(folder, seed=3, **arguments)
    data.check()
    data.setup("fit")
    return data


def test_the_lists_divide_the_clips_and_unknown_and_silence_are_as_frequent_as_a_word(tree: Path):
    summary = opened(tree).summary()
    for part, each in (("train", 4), ("val", 1), ("test", 1)):
        counts = summary["counts"][part]
        assert counts["clips"] == 12 * each
        assert {counts[f"of '{word}'"] for word in (SILENCE, UNKNOWN, *TEN)} == {each}
    assert {pair["speakers"] for pair in summary["overlap"].values()} == {0}
    assert "12 classes, split by lists" in summary["protocol"]


@pytest.mark.parametrize(
    ("total", "published"),
    [(36_923, 3077), (4445, 371), (4890, 408), (22_246, 1854), (3093, 258), (3081, 257)],
)
def test_the_mean_of_the_ten_words_is_the_published_number_of_unknown_and_silence(total: int, published: int):
    """Totals of the 12-class task of versions 2 and 1 (papers/kws_benchmarks 4)."""
    assert math.ceil((total - 2 * published) / 10) == published


def test_all_words_are_classes_where_35_are_asked_for(tree: Path):
    data = opened(tree, classes=35)
    assert data.words == sorted((*TEN, *OTHERS))
    assert data.summary()["counts"]["train"]["clips"] == 48
    assert all(clip >= 0 for clip, _ in data.parts["train"])


def test_without_lists_the_hash_of_the_speaker_divides(tree: Path):
    (tree / "testing_list.txt").unlink()
    for speaker in range(40):  # among forty speakers each part has some
        write_tone(tree / "bed" / f"{speaker + 100:08x}_nohash_0.wav", 0.3, 200)
        write_tone(tree / "yes" / f"{speaker + 100:08x}_nohash_1.wav", 0.3, 200)
    data = opened(tree, words=["yes", "no"])
    assert data.split_by == "hash"
    assert {pair["speakers"] for pair in data.summary()["overlap"].values()} == {0}


def test_the_hash_rule_is_the_official_one():
    # Entries of the official lists of version 0.02.
    assert part_by_hash("bed/026290a7_nohash_0.wav") == "val"
    assert part_by_hash("bed/0c40e715_nohash_0.wav") == "test"
    assert part_by_hash("bed/00176480_nohash_0.wav") == "train"
    parts = [part_by_hash(f"{speaker:08x}_nohash_3.wav") for speaker in range(4000)]
    assert parts.count("val") / 4000 == pytest.approx(0.1, abs=0.015)
    assert parts.count("test") / 4000 == pytest.approx(0.1, abs=0.015)


def test_unknown_and_silence_are_the_same_at_every_test(tree: Path):
    def tested(seed: int) -> list[torch.Tensor]:
        data = SpeechCommands(tree, seed=seed)
        data.setup("test")
        return [batch["audio"] for batch in data.test_dataloader()[0]]

    assert all(torch.equal(a, b) for a, b in zip(tested(1), tested(2), strict=True))


def test_training_clips_are_shifted_and_get_noise_and_validation_clips_do_not(tree: Path):
    data = opened(tree)
    loader = data.train_dataloader()
    rows = loader.dataset
    one = rows[0]["audio"]
    assert torch.equal(one, rows[0]["audio"])
    loader.batch_sampler.set_epoch(1)
    assert not torch.equal(one, rows[0]["audio"])
    quiet = opened(tree, noise_probability=0.0).train_dataloader().dataset
    original = np.pad(data.clips.audio(quiet[1]["clip"]), (0, 16_000))[:16_000]
    assert np.array_equal(quiet[1]["audio"].numpy(), original)  # padded at its end
    changed = [not torch.equal(rows[i]["audio"], quiet[i]["audio"]) for i in range(40)]
    assert 0.6 < np.mean(changed) < 1


def test_the_same_seed_gives_the_same_batches_and_the_same_recordings_the_same_hash(tree: Path):
    def drawn(seed: int) -> tuple[list[torch.Tensor], str]:
        data = SpeechCommands(tree, seed=seed, batch_size=9)
        data.setup("fit")
        return [batch["audio"] for batch in data.train_dataloader()], data.summary()["hash"]

    (first, key), (again, same), (others, _) = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))
    assert key == same
    write_tone(tree / "yes" / "00000000_nohash_0.wav", 1.0, 1234)
    assert drawn(1)[1] != key


def test_silence_is_background_noise(tree: Path):
    data = opened(tree)
    silent = [item for item in data.val_dataloader().dataset if item["word"] == 0]
    assert len(silent) == 1
    spectrum = np.abs(np.fft.rfft(silent[0]["audio"].numpy()))
    assert spectrum.argmax() in (100, 101)


def test_a_shift_moves_and_fills_with_zeros():
    audio = np.arange(1, 6, dtype=np.float32)
    assert shifted(audio, 2).tolist() == [0, 0, 1, 2, 3]
    assert shifted(audio, -2).tolist() == [3, 4, 5, 0, 0]
    assert shifted(audio, 0).tolist() == audio.tolist()


def test_batches_have_the_keys_of_spoken_words(tree: Path):
    batch = next(iter(opened(tree, batch_size=5).train_dataloader()))
    assert batch["audio"].shape == (5, 16_000)
    assert batch["audio"].dtype is torch.float32
    assert batch["word"].max() < 12
    assert batch["speaker"].shape == batch["clip"].shape == (5,)


def test_clips_of_a_speaker_share_a_number_and_every_silence_has_its_own(tree: Path):
    data = opened(tree)
    rows = data.train_dataloader().dataset
    items = [rows[index] for index in range(len(rows))]
    silent = [item["speaker"] for item in items if item["clip"] < 0]
    assert len(set(silent)) == len(silent) > 1
    pairs = {
        (data.files[item["clip"]].name.split("_nohash_")[0], item["speaker"]) for item in items if item["clip"] >= 0
    }
    assert len(pairs) == len({name for name, _ in pairs}) == len({number for _, number in pairs})
    assert not set(silent) & {number for _, number in pairs}


def test_the_official_test_archive_replaces_the_list(tree: Path, tmp_path: Path):
    archive = tmp_path / "archive"
    for number, word in enumerate((SILENCE, UNKNOWN, *TEN)):
        for take in range(2):
            write_tone(archive / word / f"{take:08x}_nohash_{number}.wav", 1.0, 500)
    data = opened(tree, test_set=archive)
    assert len(data.parts["test"]) == 24
    assert "test official archive" in data.summary()["protocol"]
    (archive / "go" / "00000000_nohash_11.wav").unlink()
    (archive / "go" / "00000001_nohash_11.wav").unlink()
    with pytest.raises(UserError, match="no recordings of go"):
        SpeechCommands(tree, test_set=archive).check()


def test_a_data_set_of_the_hub_is_unpacked_into_the_same_layout(tree: Path, tmp_path: Path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = [*TEN, *OTHERS, SILENCE]
    sound = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": sound, "label": ClassLabel(names=names)})
    rows: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    hub_names = {"train": "train", "val": "validation", "test": "test"}
    listed, _ = split_files(tree, {word: sorted((tree / word).glob("*.wav")) for word in (*TEN, *OTHERS)})
    for part, words in listed.items():
        for word, files in words.items():
            rows[hub_names[part]] += [{"audio": str(file), "label": word} for file in files]
    rows["train"].append({"audio": str(tree / "_background_noise_" / "0.wav"), "label": SILENCE})
    stored = {
        name: Dataset.from_list(
            [{"audio": {"path": r["audio"], "bytes": Path(r["audio"]).read_bytes()}, "label": names.index(r["label"])}
             for r in some], features=features)
        for name, some in rows.items()
    }  # fmt: skip
    DatasetDict(stored).save_to_disk(str(tmp_path / "hub"))
    data = SpeechCommands(tmp_path / "hub", seed=3)
    data.check()
    data.setup("fit")
    counts = {part: entry["clips"] for part, entry in data.summary()["counts"].items()}
    assert counts == {"train": 48, "val": 12, "test": 12}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 10}, "it must be 12 or 35"),
        ({"noise_probability": 1.5}, "noise_probability is 1.5"),
        ({"shift_ms": 2000}, "shift_ms is 2000"),
        ({"classes": 35, "words": ["a", "b"]}, "belong to 12 classes"),
        ({"words": ["yes", "yes"]}, "two or more different"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        SpeechCommands("x", **arguments)


def test_folders_that_are_not_speech_commands_are_refused_early(tree: Path, tmp_path: Path):
    with pytest.raises(UserError, match="has no folder 'stopp'. Did you mean 'stop'"):
        SpeechCommands(tree, words=["stopp", "go"]).check()
    (tmp_path / "else").mkdir()
    with pytest.raises(UserError, match="is not Speech Commands"):
        SpeechCommands(tmp_path / "else").check()
    with pytest.raises(UserError, match="nothing is '_unknown_'"):
        SpeechCommands(tree, words=[*TEN, *OTHERS]).check()
    for file in (tree / "_background_noise_").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no recordings in _background_noise_"):
        SpeechCommands(tree).check()
    with pytest.raises(UserError, match="does not exist"):
        SpeechCommands("./nowhere").check()


@pytest.mark.real_data
def test_the_official_layout_is_read(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    data = SpeechCommands(real_data / "speech_commands_sample", words=["one", "two", "three"])
    data.check()
    data.setup("fit")
    assert data.split_by == "hash"
    assert len(data.noises) == 6
    assert len(data.files) == 30
    batch = next(iter(data.train_dataloader()))
    assert batch["audio"].abs().amax(1).min() > 0
