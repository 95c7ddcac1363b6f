import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.recordings import write_folder, write_tone
from lightsleeper.data.kept import KeptStream
from lightsleeper.data.streams import Clip, Joined, Scenery
from lightsleeper.data.wake_recordings import fold_parts
from lightsleeper.data.wake_words import WakeWords
from lightsleeper.errors import UserError

TINY: dict[str, Any] = {
    "train_keywords": 12, "train_near": 12, "train_speech": 30, "val_keywords": 3, "val_hours": 0.02,
    "test_keywords": 5, "test_hours": 0.04, "near_phrases": 20, "near_per_hour": 100.0, "batch_size": 8,
    "chunk_seconds": 4.0, "build_workers": 1, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def spoken(corpus_cache: None) -> WakeWords:
    data = WakeWords(**TINY)
    data.setup("fit")
    return data


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten takes of "jarvis" and five of other words by five speakers, and a folder of further negatives."""
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "recordings", ["jarvis", "other"], ["a", "b", "c", "d", "e"])
    for number in range(6):
        write_tone(tmp_path / "more" / f"{number}.wav", 1.0 + 0.1 * number, 200 + 10 * number)
    return folder


@pytest.fixture
def heard(tmp_path: Path, corpus_cache: None) -> Path:
    """Ten takes of the synthesised phrase, beside the session's corpora."""
    return write_folder(tmp_path / "heard", ["hey firefly", "other"], ["a", "b", "c", "d", "e"])


def alone(folder: Path, **more: Any) -> WakeWords:
    arguments = {"path": folder, "negatives": [str(folder.parent / "more")], "synthesis": False, "batch_size": 4}
    return WakeWords("jarvis", **{**arguments, "chunk_seconds": 1.0, "seed": 1, **more})


def test_training_batches_hold_clips_times_and_phones(spoken: WakeWords):
    batches = list(spoken.train_dataloader())
    batch = batches[0]
    samples = round(2.4 * 16_000)
    assert batch["audio"].shape == (8, samples)
    assert batch["audio"].dtype is torch.float32
    assert batch["phones"].shape == (8, 240)
    assert batch["phones"].dtype is torch.int64
    assert batch["begin_s"].dtype is torch.float32
    keyword = torch.cat([b["keyword"] for b in batches])
    times = torch.cat([b["begin_s"] for b in batches])
    assert len(keyword) == 40
    assert keyword.sum() == 12
    assert torch.equal(times.isnan(), keyword == 0)
    assert batch["audio"].abs().max() <= 1


def test_the_phones_of_the_phrase_sound_in_order_between_its_times(spoken: WakeWords):
    wanted = spoken.phrase_phones
    for batch in spoken.train_dataloader():
        for row in torch.nonzero(batch["keyword"])[:, 0].tolist():
            first, last = (round(float(batch[name][row]) * 100) for name in ("begin_s", "end_s"))
            heard = batch["phones"][row, first:last]
            runs = torch.unique_consecutive(heard[heard > 0]).tolist()
            assert runs == wanted


def test_training_is_a_pure_function_of_seed_and_epoch(spoken: WakeWords):
    def epoch(number: int) -> torch.Tensor:
        loader = spoken.train_dataloader()
        loader.batch_sampler.set_epoch(number)
        return next(iter(loader))["audio"]

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(0), epoch(1))


def test_streams_come_in_chunks_with_their_keywords(spoken: WakeWords):
    (loader,) = spoken.test_dataloader()
    chunks = list(loader)
    assert sum(chunk["first"] for chunk in chunks) == sum(chunk["last"] for chunk in chunks) == 1
    assert chunks[0]["audio"].shape == (1, 64_000)
    assert sum(chunk["audio"].shape[1] for chunk in chunks) == round(0.04 * 3600 * 16_000)
    events = spoken.streams("test")[chunks[0]["stream"]].events
    assert [tuple(event) for event in chunks[-1]["events"]] == events
    assert len(events) == 5
    assert {chunk["stream"] for chunk in spoken.val_dataloader()}.isdisjoint({chunk["stream"] for chunk in chunks})


def test_the_summary_states_hours_and_that_nothing_is_shared(spoken: WakeWords):
    summary = spoken.summary()
    assert summary["protocol"] == "wake word 'hey firefly'"
    assert summary["counts"]["train"]["synthesised keyword"] == 12
    assert summary["counts"]["test"]["placed keywords"] == 5
    hours = spoken.negative_hours["test"]
    spent = sum(end - begin + 1.5 for begin, end in spoken.streams("test")[1].events) / 3600
    assert hours == pytest.approx(0.04 - spent)
    assert summary["counts"]["test"]["negative hours"] == pytest.approx(hours, abs=1e-3)
    for shared in summary["overlap"].values():
        assert set(shared.values()) == {0}


def test_recordings_are_divided_by_speaker_and_stay_whole(recorded: Path):
    data = alone(recorded)
    data.check()
    data.setup("fit")
    summary = data.summary()
    assert summary["split by"] == "speakers"
    assert summary["overlap"]["train/test"] == {"voices": 0, "near phrases": 0, "recordings": 0}
    assert summary["counts"]["test"]["recorded positive"] == 2
    streams = list(data.streams("test").values())
    assert [type(stream) for stream in streams] == [Clip, Clip, Joined]
    assert streams[0].events == [(0.0, math.inf)]
    numbers = list(data.streams("test"))
    assert [data.recording(number).name for number in numbers[:2]] == ["jarvis_0.wav", "jarvis_1.wav"]
    assert data.recording(numbers[2]) is None
    batch = next(iter(data.train_dataloader()))
    assert set(batch["phones"].unique().tolist()) <= {-1, 0}


def test_the_same_seed_gives_the_same_batches_and_the_same_fold_the_same_hash(recorded: Path):
    def drawn(**other: Any) -> tuple[list[torch.Tensor], str]:
        data = alone(recorded, **other)
        data.setup("fit")
        return [batch["audio"] for batch in data.train_dataloader()], data.summary()["hash"]

    first, key = drawn()
    again, same = drawn()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, drawn(seed=2)[0], strict=True))
    assert key == same != drawn(fold=1)[1]
    write_tone(recorded / "a" / "jarvis_0.wav", 0.7, 1234)
    assert drawn()[1] != key


def test_the_folds_together_test_every_recording_once(recorded: Path):
    tested: list[str] = []
    for fold in range(5):
        data = alone(recorded, fold=fold)
        data.setup("test")
        found = data.recordings
        clips = [*found.positives["test"], *found.negatives["test"]]
        tested += [str(found.takes[clip].file) for clip in clips]
    assert len(tested) == len(set(tested)) == 26


def test_folds_of_clips_do_not_depend_on_the_runs_seed():
    clips = list(range(30))
    one = fold_parts(clips, clips, 5, 2, 0.15, 0)
    assert one == fold_parts(clips, clips, 5, 2, 0.15, 0)
    assert [len(one[part]) for part in ("train", "val", "test")] == [20, 4, 6]
    with pytest.raises(UserError, match="4 speakers or clips cannot be divided into 5 folds"):
        fold_parts([0, 1, 2, 3], [0, 1, 2, 3], 5, 0, 0.15, 0)


def test_recordings_may_be_the_test_alone(heard: Path):
    data = WakeWords(path=heard, evaluate_only=True, **TINY)
    data.setup("fit")
    assert sum(isinstance(stream, Clip) for stream in data.streams("test").values()) == 10
    assert [type(stream) for stream in data.streams("val").values()] == [KeptStream]
    assert len(data.streams("val")[0].events) == 3
    test = [stream for stream in data.streams("test").values() if isinstance(stream, Scenery)]
    assert [stream.events for stream in test] == [[]]  # hours without the phrase
    assert data.summary()["counts"]["train"]["synthesised keyword"] == 12


def test_recordings_and_synthesis_train_together(heard: Path):
    data = WakeWords(path=heard, synthetic_share=0.5, clips_per_epoch=200, **TINY)
    data.setup("fit")
    rows = data.train_dataloader().dataset
    clips = [rows[index] for index in range(60)]
    synthesised = np.mean([(clip["phones"] > 0).any().item() for clip in clips])
    assert 0.3 < synthesised < 0.95  # recordings may have synthesised neighbours
    assert len(data.streams("val")[0].events) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_keywords": 0}, "train_keywords must be at least 1, got 0"),
        ({"test_hours": 0.0}, "test_hours must be above 0"),
        ({"val_hours": -1.0}, "val_hours must not be negative"),
        ({"positive_share": 0.9, "near_share": 0.3}, "positive_share 0.9, near_share 0.3"),
        ({"fold": 5}, "fold is 5; with folds 5"),
        ({"snr_db": (20.0, 0.0)}, "snr_db must be a lowest and a highest"),
        ({"chunk_seconds": 0.015}, "multiple of 0.02"),
        ({"held_out_voices": 85}, "leave none of the 89 voices"),
        ({"evaluate_only": True}, "need recordings of the phrase in path"),
        ({"path": "x", "evaluate_only": True, "synthesis": False}, "leaves nothing to train on"),
        ({"clip_seconds": 0.1}, "clip_seconds must lie between"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        WakeWords(**arguments)


def test_what_cannot_work_is_refused_before_anything_is_built(recorded: Path):
    with pytest.raises(UserError, match="phrase: 'jervis' does not occur in the recordings. Did you mean 'jarvis'"):
        WakeWords("jervis", path=recorded).check()
    with pytest.raises(UserError, match="does not exist"):
        alone(recorded, negatives=[str(recorded / "nowhere")]).check()
    with pytest.raises(UserError, match="is a recording of 'jarvis' too"):
        alone(recorded, negatives=[str(recorded)]).check()
    with pytest.raises(UserError, match="test_keywords 1000 do not fit into test_hours 1.0"):
        WakeWords(test_hours=1.0).check()
    (recorded / "empty").mkdir()
    with pytest.raises(UserError, match="holds no recording"):
        WakeWords(noise=recorded / "empty").check()


def test_takes_too_long_for_a_clip_are_refused(recorded: Path):
    write_tone(recorded / "a" / "jarvis_0.wav", 3.0, 300)
    data = alone(recorded, clip_seconds=0.5)
    for speaker in "abcde":
        for take in (0, 1):
            write_tone(recorded / speaker / f"jarvis_{take}.wav", 1.0, 300)
    with pytest.raises(UserError, match="longer than clip_seconds 0.5"):
        data.setup("fit")


@pytest.mark.real_data
def test_crowd_sourced_wake_words_are_divided_by_clip(real_data: Path):
    data = WakeWords("jarvis", path=real_data / "wake_words", negatives=[str(real_data / "coffee_orders")],
                     synthesis=False, fold=1)  # fmt: skip
    data.check()
    data.setup("fit")
    counts = data.summary()["counts"]
    assert data.recordings.split_by == "clips"
    assert sum(part["recorded positive"] + part["recorded negative"] for part in counts.values()) == 753 + 310
    assert data.negative_hours["test"] > 0.1
    assert next(iter(data.train_dataloader()))["audio"].abs().max() > 0.01
