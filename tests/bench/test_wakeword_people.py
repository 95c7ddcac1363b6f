import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.recordings import write_folder, write_tone
from lightsleeper.bench import wakeword_people as people
from lightsleeper.bench.wakeword_verdicts import Heard, engine_hears, hear, read_heard
from lightsleeper.data.streams import HOP
from lightsleeper.data.wake_recordings import find_takes, split_takes
from lightsleeper.deploy.export import export
from lightsleeper.errors import UserError
from lightsleeper.metrics.events import smoothed
from models.wake_streams import make

FAKE = """
KEYWORDS = {"jarvis", "smart mirror"}

class Fake:
    frame_length = 512

    def __init__(self, sensitivity):
        self.level, self.heard = 32768 * (1 - sensitivity), 0

    def process(self, frame):
        self.heard += max(frame) > 0
        return 0 if max(frame) >= self.level and self.heard < 3 else -1

    def delete(self):
        pass

def create(keywords, sensitivities):
    return Fake(*sensitivities)
"""


class Given:
    """Samples as a stream."""

    events: list[tuple[float, float]] = []  # noqa: RUF012 - as of a stream without keywords

    def __init__(self, audio: np.ndarray) -> None:
        self.audio, self.samples = audio.astype(np.float32), len(audio)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.audio[start : start + count]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python whose pvporcupine fires where a frame is loud, twice a stream at most."""
    about = tmp_path / "packages" / "pvporcupine-1.2.3.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pvporcupine\nVersion: 1.2.3\n")
    (about.parent / "pvporcupine.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(about.parent))
    return sys.executable


def loud(*places: int, samples: int = 3 * 16_000, level: float = 0.6) -> Given:
    audio = np.zeros(samples)
    for place in places:
        audio[place] = level
    return Given(audio)


def test_an_engine_hears_each_stream_from_its_start(engine: str):
    streams = {"a": loud(600, 40_000), "b": loud(1000, 2000, samples=50_001), "c": loud(600, level=0.4), "d": loud()}
    found = engine_hears(engine, "jarvis", [0.5, 0.7], streams)
    assert (found["engine"], found["version"], found["frame_samples"]) == ("pvporcupine", "1.2.3", 512)
    assert found["events"]["a"]["0.5"] == [1024 / 16_000, 40_448 / 16_000]
    assert found["events"]["b"]["0.5"] == [1024 / 16_000]  # two within a second are one
    assert found["events"]["c"] == {"0.5": [], "0.7": [1024 / 16_000]}
    assert found["events"]["d"] == {"0.5": [], "0.7": []}


def test_an_engine_that_cannot_serve_is_refused_in_one_line(engine: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="no phrase 'hey firefly', only jarvis, smart mirror"):
        engine_hears(engine, "hey firefly", [0.5], {"a": loud()})
    with pytest.raises(UserError, match="no-python cannot be started"):
        engine_hears("no-python", "jarvis", [0.5], {"a": loud()})
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(UserError, match="No module named 'pvporcupine'"):
        engine_hears(engine, "jarvis", [0.5], {"a": loud()})


@pytest.mark.slow  # the exporter needs ten seconds
def test_scores_of_recordings_and_streams_are_those_of_the_model(tmp_path: Path):
    model = make("cnn", smoothing_ms=60.0)
    model.threshold.fill_(0.25)
    export(model, tmp_path, ["onnx"], parity_inputs=2)
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 90 * HOP))
    heard = hear(tmp_path / "model.onnx", {"a": Given(audio[0])}, {"b": Given(audio[1])})
    rounded = torch.from_numpy(np.rint(audio * 32768) / 32768).float()
    expected = [smoothed(scores.numpy(), model.smoothing_frames) for scores in model(rounded).detach()]
    assert heard.threshold == 0.25
    assert heard.peaks["a"] == pytest.approx(float(expected[0].max()), abs=1e-5)
    assert np.abs(heard.tracks["b"] - expected[1]).max() <= 1e-5
    heard.save(tmp_path / "heard.npz")
    again = read_heard(tmp_path / "heard.npz")
    assert again.peaks == heard.peaks
    assert np.array_equal(again.tracks["b"], heard.tracks["b"])


def heard(peaks: dict[str, float], alarms: list[float], name: str, threshold: float = 0.5) -> Heard:
    """A negative stream of 0.02 hours with a peak every two seconds."""
    track = np.zeros(3600, np.float32)
    track[100 * np.arange(1, len(alarms) + 1)] = alarms
    return Heard(threshold, 0.02, peaks, {name: track})


def row(fold: int | None, one: Heard, fired: dict[str, list[float]] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"job": people.Job("jarvis", fold), "heard": one, "run": f"run-{fold}"}
    found |= {"bytes": 150_000 + 1000 * (fold or 0), "gzip_bytes": 90_000, "parameters": 21_000, "fit_seconds": 10.4}
    if fired is not None:
        events = {name: {"0.5": times, "1": times or [1.0]} for name, times in fired.items()}
        found["engine"] = {"version": "1.9.5", "events": events}
    return found


@pytest.fixture
def result() -> dict[str, Any]:
    first, second = "recordings 0", "synthesised hour 1"
    rows = [
        row(0, heard({"a": 0.9, "b": 0.4}, [0.7, 0.3], first), {"a": [1.0], "b": [1.2], first: []}),
        row(1, heard({"c": 0.8, "d": 0.6}, [0.2], second), {"c": [], "d": [2.0], second: []}),
        row(None, heard({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9}, [], "recordings")),
    ]
    return {"phrases": {"jarvis": people.summary(rows, with_engine=True)}, "folds": 2}


def test_folds_are_pooled_and_every_count_has_its_exact_interval(result: dict[str, Any]):
    systems = result["phrases"]["jarvis"]["systems"]
    assert json.loads(json.dumps(result)) == result
    ours = systems["people"]
    assert (ours["missed"], ours["frr"]["value"], ours["frr"]["method"]) == (["b"], 0.25, "Clopper-Pearson")
    assert (ours["false_alarms"], ours["hours"]) == (1, pytest.approx(0.04))
    assert (ours["false_alarms_people"], ours["hours_people"]) == (1, pytest.approx(0.02))
    assert ours["fa_per_hour_bound"] == pytest.approx(4.744 / 0.04, rel=1e-3)
    assert (ours["bytes"], ours["missed_by_fold"]) == (151_000, [1, 0])
    # 0.7 is the highest score of a negative: a and c are above it, b and d are not
    assert systems["people, no false alarm"]["missed"] == ["b", "d"]
    assert systems["people, no false alarm"]["fa_per_hour_bound"] == pytest.approx(2.996 / 0.04, rel=1e-3)
    assert systems["people, none on people"]["missed"] == ["b", "d"]
    matched = systems["people, alarms as engine at 1"]
    assert (matched["false_alarms"], matched["missed"]) == (2, [])
    assert systems["synthesis"]["missed"] == ["a", "b", "c"]
    assert systems["synthesis, no false alarm"]["missed"] == []


def test_recordings_are_paired_with_those_of_the_engine(result: dict[str, Any]):
    found = result["phrases"]["jarvis"]
    assert found["systems"]["engine at 0.5"]["missed"] == ["c"]
    assert found["systems"]["engine at 1"]["missed"] == []
    assert found["systems"]["engine at 1"]["false_alarms"] == 2
    tests = {(test["ours"], test["engine"]): test for test in found["mcnemar"]}
    assert (tests["people", 0.5]["only_ours"], tests["people", 0.5]["only_engine"]) == (1, 1)
    assert (tests["synthesis", 1.0]["only_ours"], tests["synthesis", 1.0]["only_engine"]) == (0, 3)
    assert tests["synthesis", 1.0]["p"] == pytest.approx(0.25)


def test_what_is_finished_is_compared_before_the_rest_is(result: dict[str, Any]):
    rows = [row(1, heard({"c": 0.8, "d": 0.6}, [0.2], "recordings 1")), row(None, heard({"a": 0.9}, [], "recordings"))]
    assert people.summary(rows[:1], with_engine=False)["systems"]["people"]["folds"] == [1]
    assert list(people.summary(rows[1:], with_engine=True)["systems"])[0] == "synthesis"
    assert list(people.report({"phrases": {"jarvis": people.summary(rows[1:], with_engine=True)}, "folds": 5}))


def test_the_tables_say_what_was_missed_and_whether_the_file_is_small(result: dict[str, Any]):
    text = "\n".join(people.report(result))
    assert "2 of 2 folds" in text
    assert "1 of 4 25.00 %" in " ".join(text.split())
    assert "target 200,000: reached" in text
    assert "McNemar, people, engine at 0.5: only ours heard 1, only the engine 1, p = 1" in text


def test_without_recordings_it_says_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(people.DATA, str(tmp_path))
    with pytest.raises(UserError, match="no wake_words/manifest.csv there"):
        people.run(tmp_path / "out")


@pytest.mark.slow
def test_a_second_call_trains_nothing_again(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "wake_words", ["jarvis", "other"], ["a", "b", "c", "d", "e"])
    for number in range(10):
        write_tone(tmp_path / "coffee_orders" / f"{number}.wav", 1.0, 200 + 10 * number)
    monkeypatch.setenv(people.DATA, str(tmp_path))
    monkeypatch.setattr(people, "QUICK", (*people.QUICK, "--run.parity_inputs=2"))
    with pytest.raises(UserError, match="no training is finished"):
        people.run(tmp_path / "out", quick=True, collect=True)
    found = people.run(tmp_path / "out", engine=engine, quick=True)["phrases"]["jarvis"]
    ours = found["systems"]["people"]
    assert ours["frr"]["n"] == found["systems"]["synthesis"]["frr"]["n"] == 10
    assert ours["folds"] == [0, 1]
    # ten orders and ten takes of other words, each in one fold, and the synthesised hour
    assert ours["hours_people"] == pytest.approx((10 * 1.5 + 10 * 0.9) / 3600, rel=0.1)
    assert ours["hours"] == pytest.approx(ours["hours_people"] + 0.1, rel=0.01)
    runs = set((tmp_path / "out" / "runs").glob("*/*"))
    assert len(runs) == 4
    assert found["systems"]["synthesis with phones"]["frr"]["n"] == 10
    again = people.run(tmp_path / "out", quick=True, collect=True)["phrases"]["jarvis"]
    assert again["systems"]["people"] == ours
    assert set((tmp_path / "out" / "runs").glob("*/*")) == runs


@pytest.mark.real_data
@pytest.mark.parametrize(("phrase", "takes"), [("jarvis", 384), ("smart mirror", 369)])
def test_five_folds_test_every_recording_once(phrase: str, takes: int, real_data: Path):
    found = find_takes(phrase, real_data / "wake_words", "manifest.csv", [real_data / "coffee_orders"])
    splits = [split_takes(found, range(len(found)), people.FOLDS, fold, 0.15, 0) for fold in range(people.FOLDS)]
    tested = [clip for positives, _, _ in splits for clip in positives["test"]]
    assert len(tested) == len(set(tested)) == takes
    heard = [clip for _, negatives, _ in splits for clip in negatives["test"]]
    assert len(heard) == len(set(heard)) == len(found) - takes
    for positives, _, by in splits:
        assert by == "clips"
        assert not set(positives["train"] + positives["val"]) & set(positives["test"])
