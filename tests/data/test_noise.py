from pathlib import Path

import numpy as np
import pytest
from data.made_speech import MadeSpeech
from data.recordings import write_tone
from lightsleeper.data.noise import KINDS, DrawnSpeech, NoisePool, NoiseSource, audio_files, divided
from lightsleeper.errors import UserError

RATE = 16_000
SPEECH = DrawnSpeech(MadeSpeech(), range(20))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_unit_power_and_is_a_pure_function_of_its_generator(kind: str):
    source = NoiseSource(SPEECH)
    one, two, other = (source.make(kind, 3 * RATE + 7, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (3 * RATE + 7,)
    assert one.dtype == np.float32
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert np.mean(one.astype(float) ** 2) == pytest.approx(1, rel=1e-4)


def test_music_has_tones_and_rhythm_and_noise_has_neither():
    source = NoiseSource()

    def flatness(kind: str) -> float:
        """Geometric over arithmetic mean of the spectrum: near 1 for noise."""
        power = np.abs(np.fft.rfft(source.make(kind, 4 * RATE, np.random.default_rng(0)))) ** 2 + 1e-9
        return float(np.exp(np.log(power).mean()) / power.mean())

    assert flatness("music") < 0.02
    assert flatness("white") > 0.5


def test_without_speech_there_is_no_babble():
    assert "babble" not in NoiseSource().kinds


def test_recordings_join_as_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    write_tone(tmp_path / "noise" / "a.wav", 1.0, 440)
    source = NoiseSource(files=audio_files(tmp_path / "noise"))
    assert source.kinds[-1] == "recorded"
    assert len(source.make("recorded", 5 * RATE, np.random.default_rng(0))) == 5 * RATE  # repeated where too short
    spectrum = np.abs(np.fft.rfft(source.make("recorded", RATE, np.random.default_rng(0))))
    assert spectrum.argmax() == 440


def test_recordings_are_divided_by_name_and_none_is_on_two_sides():
    files = [Path(f"{number}.wav") for number in range(20)]
    parts = divided(files, ("train", "val", "test"))
    assert [len(part) for part in parts.values()] == [14, 2, 4]
    assert sorted(sum(parts.values(), [])) == sorted(files)
    assert divided(list(reversed(files)), ("train", "val", "test")) == parts
    assert [len(part) for part in divided(files[:3], ("train", "val", "test")).values()] == [1, 1, 1]
    assert [len(part) for part in divided(files[:2], ("train", "val", "test")).values()] == [2, 2, 2]


def test_a_folder_without_recordings_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no recording"):
        audio_files(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        audio_files(tmp_path / "nowhere")


def test_a_pool_cuts_any_length():
    pool = NoisePool(NoiseSource(), seed=1)
    for length in (10, 2 * RATE, 20 * RATE):
        assert pool.cut("music", length, np.random.default_rng(0)).shape == (length,)


@pytest.mark.real_data
def test_the_official_background_noises_are_found(real_data: Path):
    assert len(audio_files(real_data / "speech_commands_sample" / "_background_noise_")) == 6
