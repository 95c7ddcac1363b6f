import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.sounds import Recording
from lightsleeper.deploy.detector import StreamingDetector, TorchStream
from lightsleeper.deploy.listen_plot import COLUMNS, Columns, Picture, plot
from lightsleeper.deploy.listening import PAD_S, Listening
from tiny_detector import LOUD, RATE, Louder, jumps


@given(st.lists(st.integers(0, 40), max_size=12), st.sampled_from([np.maximum, np.minimum, np.add]))
@settings(max_examples=200, deadline=None)
def test_columns_join_equally_many_neighbours_however_they_come(sizes, join):
    values = np.random.default_rng(len(sizes)).integers(0, 100, (sum(sizes), 2)).astype(np.float32)
    columns, at = Columns(join, most=8), 0
    for size in sizes:
        columns.add(values[at : at + size])
        at += size
    found = columns.values()
    assert len(found) <= 8
    assert columns.width & (columns.width - 1) == 0
    for number, column in enumerate(found):
        part = values[number * columns.width : (number + 1) * columns.width]
        assert np.allclose(column, part.mean(0) if join is np.add else join.reduce(part, 0))
    assert len(found) * columns.width >= len(values)


def pictured(path, view, **how):
    detector = StreamingDetector(TorchStream(Louder(), LOUD | how))
    picture = Picture(detector, view, -PAD_S)
    events = list(Listening(detector, Recording(path), picture))
    return picture, events


def test_the_score_peaks_where_the_event_fires(tmp_path):
    picture, (event,) = pictured(jumps(tmp_path / "a.wav", (41.5,), 60.0), "waveform")
    times = picture.places(picture.levels, 0.02)
    levels = picture.levels.values()
    assert picture.levels.width == 2
    assert abs(times[levels.argmax()] - event.time_s) < 0.04
    assert levels.max() == pytest.approx(event.score)
    loud = picture.places(picture.upper, 0.01)[picture.upper.values() > 0.5]
    assert (loud.min(), loud.max()) == (pytest.approx(41.5, abs=0.05), pytest.approx(41.7, abs=0.05))


def test_the_drawn_score_is_the_smoothed_one_that_decides(tmp_path):
    path = jumps(tmp_path / "a.wav", (1.0,))
    picture, (event,) = pictured(path, "spectrogram", smoothing_frames="3", threshold="0.2")
    assert picture.levels.values().max() == pytest.approx(event.score)
    assert event.score == pytest.approx(0.3, abs=1e-4)


def test_the_spectrogram_is_loud_where_the_sound_is(tmp_path):
    picture, _ = pictured(jumps(tmp_path / "a.wav", (1.0,)), "spectrogram")
    times, mel = picture.places(picture.mel, 0.01), picture.mel.values().mean(1)
    assert abs(times[mel.argmax()] - 1.0) < 0.25
    assert mel.shape == (500,)


def test_hours_need_no_more_than_minutes():
    picture = Picture(StreamingDetector(TorchStream(Louder(), LOUD)), "spectrogram")
    for _ in range(200):
        picture.score(np.zeros(9_000, np.float32))  # three minutes
    assert picture.levels.width == 1024
    assert len(picture.levels.values()) <= COLUMNS
    assert picture.levels._kept.nbytes == 4 * COLUMNS


@pytest.mark.parametrize("view", ["spectrogram", "waveform"])
def test_a_panel_a_sound_is_drawn(tmp_path, view):
    panels = [
        (*pictured(jumps(tmp_path / "a$b.wav", (1.0, 3.9)), view)[:1], "a$b.wav: 2 events", []),
        (Picture(StreamingDetector(TorchStream(Louder(), LOUD)), view), "nothing was heard", []),
    ]
    picture, events = pictured(jumps(tmp_path / "c.wav", (1.0,)), view)
    panels.append((picture, "c.wav: 1 event", events))
    drawn = matplotlib.image.imread(plot(tmp_path / "out.png", panels))
    assert drawn.shape[1] == 1080
    assert drawn.shape[0] > 3 * 300
    assert picture.rate == RATE
