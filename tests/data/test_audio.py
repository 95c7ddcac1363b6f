"""Reading recordings of any format, and finding the speech in them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lightsleeper.data.audio import AudioError, cut_speech, read_audio, trim_silence
from lightsleeper.errors import UserError

RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_any_rate_and_channel_count_becomes_16_khz_mono(tmp_path: Path, rate: int, channels: int, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, np.repeat(tone(0.5, rate)[:, None], channels, axis=1), rate)
    audio = read_audio(path)
    assert audio.dtype == np.float32
    assert abs(len(audio) - RATE // 2) <= 1
    inside = slice(1000, 7000)  # the resampler's edges ring
    np.testing.assert_allclose(audio[inside], tone(0.5)[inside], atol=2e-3)


def test_pcm_samples_at_the_wanted_rate_are_read_exactly(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, RATE).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), samples / np.float32(32768))


def test_a_stretch_of_a_recording_is_cut_by_seconds(tmp_path: Path) -> None:
    samples = np.linspace(-0.5, 0.5, RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", start_s=0.25, end_s=0.75), samples[4000:12000])
    assert len(read_audio(tmp_path / "a.wav", start_s=0.9, end_s=2.0)) == 1600


def test_values_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 3 * tone(0.2), RATE, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "a.wav")).max() == 1


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "clip.flac"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is no audio")
    elif kind == "no bytes":
        path.write_bytes(b"")
    elif kind == "cut":
        soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
        path.write_bytes(path.read_bytes()[:6000])
    elif kind in ("cut wav", "cut mp3"):
        path = folder / f"clip.{kind[-3:]}"
        soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "no samples":
        path = folder / "clip.wav"
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "short":
        soundfile.write(path, tone(0.02), RATE)
    elif kind == "nan":
        path = folder / "clip.wav"
        soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("text", "is damaged or no audio file"),
        ("no bytes", "is empty"),
        ("cut", "is damaged|is cut off"),
        ("cut wav", "is cut off: 2999 bytes of the WAV file are missing"),
        ("cut mp3", "is cut off after"),
        ("no samples", "is empty"),
        ("short", "is only 20 ms long"),
        ("nan", "not finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, kind: str, message: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert isinstance(caught.value, UserError)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1), RATE)
    path.chmod(0)
    with pytest.raises(AudioError, match="permission denied"):
        read_audio(path)


def test_the_error_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(AudioError("a.wav", "is empty")))
    assert str(error) == "audio file a.wav: is empty"


def test_a_stretch_beyond_the_end_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    with pytest.raises(AudioError, match=r"ends at 0\.50 s"):
        read_audio(tmp_path / "a.wav", start_s=0.7, end_s=0.9)


def burst(start: float, end: float, total: float = 3.0, snr_db: float | None = None, gap: float = 0.0) -> np.ndarray:
    """Speech-like noise between two times, over background noise."""
    rng = np.random.default_rng(0)
    audio = np.zeros(round(total * RATE))
    inside = slice(round(start * RATE), round(end * RATE))
    audio[inside] = 0.2 * rng.standard_normal(inside.stop - inside.start)
    if gap:
        middle = (inside.start + inside.stop) // 2
        audio[middle : middle + round(gap * RATE)] = 0
    if snr_db is not None:
        audio += 0.2 * 10 ** (-snr_db / 20) * rng.standard_normal(len(audio))
    return audio.astype(np.float32)


@pytest.mark.parametrize("snr_db", [None, 40, 20, 15, 12])
def test_the_trim_is_tight_whatever_the_background(snr_db: float | None) -> None:
    start, end = trim_silence(burst(1.0, 1.8, snr_db=snr_db))
    assert 1.0 - 0.16 < start / RATE <= 1.0
    assert 1.8 <= end / RATE < 1.8 + 0.16


def test_hum_and_rumble_do_not_count_as_speech() -> None:
    audio = burst(1.0, 1.8) + tone(3, hertz=50, level=0.2)
    start, end = trim_silence(audio)
    assert 0.8 < start / RATE <= 1.0
    assert 1.8 <= end / RATE < 2.0


def test_a_short_pause_between_words_is_kept_and_a_far_click_is_not() -> None:
    audio = burst(1.0, 2.0, gap=0.2)
    audio[round(2.8 * RATE) : round(2.81 * RATE)] = 0.3
    start, end = trim_silence(audio)
    assert (start / RATE, end / RATE) == pytest.approx((1.0, 2.0), abs=0.16)


def test_level_does_not_matter() -> None:
    audio = burst(1.0, 1.8, snr_db=30)
    assert trim_silence(audio * 0.01) == trim_silence(audio)


@pytest.mark.parametrize("samples", [0, 1, 500, 959])
def test_silence_and_tiny_clips_are_left_whole(samples: int) -> None:
    assert trim_silence(np.zeros(samples, np.float32)) == (0, samples)


def test_a_clip_without_pauses_is_left_nearly_whole() -> None:
    start, end = trim_silence(burst(0.0, 0.6, total=0.6))
    assert start == 0
    assert end == round(0.6 * RATE)


@pytest.mark.real_data
def test_wake_words_are_trimmed_to_their_known_length(real_data: Path) -> None:
    files = sorted((real_data / "wake_words" / "jarvis").glob("*.flac"))[:60]
    clips = [read_audio(file) for file in files]
    kept = [np.subtract(*trim_silence(clip)[::-1]) / RATE for clip in clips]
    assert np.median([len(clip) / RATE for clip in clips]) > 1.5
    assert 0.8 < np.median(kept) < 1.1  # a tight trim by hand: 0.80 s, and a margin on both sides
    assert np.quantile(kept, 0.95) < 1.6


@pytest.mark.real_data
def test_clips_that_are_tight_already_lose_little(real_data: Path) -> None:
    files = sorted((real_data / "spoken_digits" / "theo").glob("*.flac"))[:60]
    share = [np.subtract(*trim_silence(clip)[::-1]) / len(clip) for clip in map(read_audio, files)]
    assert np.median(share) > 0.75


def test_a_recording_cut_too_close_gets_its_margin_back() -> None:
    audio = burst(0.0, 0.6, total=0.6)
    speech, start = cut_speech(audio)
    assert start == -1600
    assert len(speech) == len(audio) + 3200
    assert not speech[:1600].any()
    np.testing.assert_array_equal(speech[1600:-1600], audio)


def test_a_recording_with_room_around_speech_is_cut_to_the_margin() -> None:
    audio = burst(1.0, 1.8, snr_db=30)
    speech, start = cut_speech(audio)
    assert 1.0 - 0.16 < start / RATE <= 1.0
    np.testing.assert_array_equal(speech, audio[start : start + len(speech)])
