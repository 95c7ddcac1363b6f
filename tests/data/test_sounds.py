import io
import os
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.audio import AudioError, read_audio
from lightsleeper.data.sounds import Microphone, Pipe, Recording
from lightsleeper.errors import UserError

NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, (30_000, 2)).astype(np.float32)


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16_000), ("a.flac", 8_000), ("a.wav", 44_100)])
def test_the_blocks_of_a_recording_are_what_is_read_at_once(tmp_path, name, rate):
    path = tmp_path / name
    soundfile.write(path, NOISE, rate)
    sound = Recording(path, block_s=0.1)
    blocks = list(sound.blocks(16_000))
    assert max(map(len, blocks)) <= 1_700
    whole = read_audio(path)
    assert abs(len(np.concatenate(blocks)) - len(whole)) <= 1
    assert np.abs(np.concatenate(blocks)[: len(whole)] - whole[: sum(map(len, blocks))]).max() < 1e-4
    assert sound.seconds == len(NOISE) / rate
    assert not sound.live


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("no audio"), "damaged or no audio file"),
        (lambda path: soundfile.write(path, NOISE[:0], 16_000), "is empty"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_bytes(_wav()[:-1000]), "is cut off: 999 bytes"),
    ],
)
def test_a_recording_that_cannot_be_used_is_refused_before_it_is_read(tmp_path, make, message):
    make(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=message):
        Recording(tmp_path / "a.wav")


def test_values_that_are_no_numbers_are_refused_while_it_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan] * 100), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        list(Recording(tmp_path / "a.wav").blocks(16_000))


def _wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, NOISE, 16_000, format="WAV")
    return file.getvalue()


def _pipe(*parts: bytes, rate: int = 16_000) -> Pipe:
    """A pipe into which so many bytes were written; closed at the other end."""
    receive, send = os.pipe()
    for part in parts:
        os.write(send, part)
    os.close(send)
    return Pipe(os.fdopen(receive, "rb"), rate)


@given(st.binary(max_size=5000))
@settings(max_examples=30, deadline=None)
def test_a_pipe_gives_the_samples_that_came_through_it(data):
    if not data or data[:4] in (b"RIFF", b"fLaC", b"OggS"):
        return
    got = np.concatenate([np.zeros(0), *_pipe(data).blocks(16_000)])
    assert np.array_equal(got * 32768, np.frombuffer(data[: len(data) // 2 * 2], "<i2"))


def test_a_pipe_of_another_rate_is_resampled():
    sound = _pipe((NOISE[:8000, 0] * 32767).astype("<i2").tobytes(), rate=8_000)
    assert sum(map(len, sound.blocks(16_000))) == pytest.approx(16_000, abs=2)
    assert sound.live


def test_a_file_with_a_header_in_a_pipe_is_refused():
    with pytest.raises(UserError, match="file with a header: give it by name"):
        list(_pipe(_wav()[:2000]).blocks(16_000))


def test_a_pipe_without_a_sample_is_refused():
    with pytest.raises(UserError, match="brought no samples"):
        list(_pipe().blocks(16_000))


def test_a_terminal_is_no_pipe():
    master, terminal = os.openpty()
    with os.fdopen(terminal, "rb") as file, pytest.raises(UserError, match="there is none"):
        Pipe(file, 16_000)
    os.close(master)


class Device:
    """A sounddevice with one microphone that gives a ramp and knows one rate only."""

    class PortAudioError(Exception):
        pass

    def __init__(self, rate: int, late: int = 0) -> None:
        self.rate, self.late, self.open = rate, late, 0

    def query_devices(self, device, kind):
        if device not in (None, 0, "desk"):
            raise ValueError(f"No input device matching {device!r}")
        return {"name": "desk microphone", "default_samplerate": float(self.rate)}

    def check_input_settings(self, device, channels, dtype, samplerate):
        if samplerate != self.rate:
            raise self.PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    def InputStream(self, samplerate, device, channels, dtype, latency):  # noqa: N802
        assert samplerate == self.rate
        return self

    def __enter__(self):
        self.open += 1
        return self

    def __exit__(self, *_):
        self.open -= 1

    def read(self, frames):
        self.late -= 1
        return np.full((frames, 1), 0.25, np.float32), self.late >= 0


def test_a_microphone_is_asked_for_the_rate_and_resampled_from_its_own(monkeypatch):
    for rate in (16_000, 48_000):
        device = Device(rate, late=2)
        monkeypatch.setitem(sys.modules, "sounddevice", device)
        sound = Microphone(16_000, seconds=0.5)
        audio = np.concatenate(list(sound.blocks(16_000)))
        assert (sound.rate, sound.device, sound.lost, device.open) == (rate, "desk microphone", 2, 0)
        assert len(audio) == pytest.approx(8_000, abs=2)
        assert audio[4_000] == pytest.approx(0.25, abs=1e-3)


def test_listening_that_stops_closes_the_microphone(monkeypatch):
    device = Device(16_000)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    blocks = Microphone(16_000).blocks(16_000)
    assert len(next(blocks)) == 1_280
    assert device.open == 1
    blocks.close()
    assert device.open == 0


def test_no_such_microphone_and_no_package_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(16_000))
    with pytest.raises(UserError, match="no input device: No input device matching 'none'"):
        Microphone(16_000, device="none")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="pip install -e"):
        Microphone(16_000)
