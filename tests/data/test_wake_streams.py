import csv

import numpy as np
import pytest
import soundfile
from lightsleeper.data.wake_streams import RecordedStreams
from lightsleeper.errors import UserError

RATE = 16_000


def folder(path, texts):
    """Recordings of a second or more, each louder than the one before, with a manifest."""
    path.mkdir()
    with (path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        for number, text in enumerate(texts):
            soundfile.write(path / f"{number}.wav", np.full(RATE + 100 * number, 0.1 * (number + 1)), RATE)
            writer.writerow([f"{number}.wav", text])
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))


def test_each_recording_of_the_phrase_is_a_stream_and_the_others_are_one(tmp_path):
    first = folder(tmp_path / "a", ["Hey Firefly", "go", "hey firefly"])
    other = folder(tmp_path / "b", ["whatever"])
    data = RecordedStreams("hey firefly", [first], [other])
    assert data.counts == {"positive": 2, "negative": 2}
    assert [data.recording(number) for number in (0, 1, 2)] == [first / "0.wav", first / "2.wav", None]
    chunks = list(data.chunks())
    assert [(c["stream"], c["first"], c["events"] != []) for c in chunks] == [
        (0, True, True),
        (1, True, True),
        (2, True, False),
    ]
    audio = chunks[1]["audio"][0].numpy()
    assert np.abs(audio[:8_000]).max() == 0  # half a second before and after
    assert audio[8_000 : 8_000 + RATE + 200] == pytest.approx(0.3, abs=1e-3)
    assert np.abs(audio[8_000 + RATE + 200 :]).max() == 0
    assert chunks[2]["audio"].shape[1] == pytest.approx(2 * RATE + 100 + 2 * 8_000, abs=320)
    assert data.summary()["protocol"] == "wake word 'hey firefly', recordings"


def test_folders_without_the_phrase_need_no_manifest(tmp_path):
    other = folder(tmp_path / "b", ["whatever"])
    (other / "manifest.csv").unlink()
    assert RecordedStreams("", [], [other]).counts == {"positive": 0, "negative": 1}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["hey fireflies", "go"], "says 'hey firefly'. Did you mean 'hey fireflies'"),
        (["no", "go"], "says 'hey firefly'. Valid: go, no."),
        ([f"order {letter}" for letter in "abcdefghi"], "says 'hey firefly'. It has 9 others."),
    ],
)
def test_a_phrase_that_nobody_says_is_refused(tmp_path, texts, message):
    with pytest.raises(UserError) as refused:
        RecordedStreams("hey firefly", [folder(tmp_path / "a", texts)])
    assert message in str(refused.value)


def test_a_recording_is_not_on_both_sides(tmp_path):
    first = folder(tmp_path / "a", ["hey firefly"])
    with pytest.raises(UserError, match="is a recording of 'hey firefly' too"):
        RecordedStreams("hey firefly", [first], [first])
