from dataclasses import replace

import numpy as np
import pytest
from lightsleeper.data.augment import (
    NOISES,
    SAMPLE_RATE,
    NoiseBank,
    Scene,
    _channel,
    _good_size,
    _room,
    apply,
    draw_scene,
)

CLEAN = Scene(
    speed=1.0, lead_s=0.0, tail_s=0.0, room_t60_s=0.0, direct_db=6.0, noise="none", snr_db=float("inf"),
    telephone_hz=None, eq_db=(0.0,) * 7, peak=0.5, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return [(np.sin(2 * np.pi * hz * times) * rng.random()).astype(np.float32) for hz in rng.uniform(200, 3000, 8)]


@pytest.fixture(scope="module")
def bank(speech: list[np.ndarray]) -> NoiseBank:
    return NoiseBank(speech, seed=3)


def power_db(signal: np.ndarray, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(signal.astype(float))) ** 2
    hertz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE)
    return float(10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].mean() + 1e-12))


def test_a_scene_is_a_pure_function_of_its_seed() -> None:
    assert draw_scene(7) == draw_scene(7)
    assert draw_scene(7) != draw_scene(8)


def test_scenes_have_the_stated_shares() -> None:
    scenes = [draw_scene(seed) for seed in range(4000)]
    shares = {
        "noise": (np.mean([s.noise != "none" for s in scenes]), 0.90),
        "room": (np.mean([s.room_t60_s > 0 for s in scenes]), 0.50),
        "telephone": (np.mean([s.telephone_hz is not None for s in scenes]), 0.35),
        "speed": (np.mean([s.speed != 1 for s in scenes]), 0.30),
    }
    for name, (share, expected) in shares.items():
        assert share == pytest.approx(expected, abs=0.03), name
    noisy = [s for s in scenes if s.noise != "none"]
    assert {s.noise for s in noisy} == set(NOISES)
    assert all(5 <= s.snr_db <= 30 for s in noisy)
    assert all(0.1 <= s.room_t60_s <= 0.6 for s in scenes if s.room_t60_s)
    assert all(0.88 <= s.speed <= 1.14 and 0 <= s.lead_s <= 0.15 and 0 <= s.tail_s <= 0.15 for s in scenes)


def test_a_scene_without_effects_only_sets_the_level(speech: list[np.ndarray], bank: NoiseBank) -> None:
    clip = apply(CLEAN, speech[0], bank)
    assert clip.dtype == np.int16
    assert np.abs(clip).max() == round(0.5 * 32767)
    assert np.corrcoef(clip, speech[0])[0, 1] > 0.9999


def test_silence_is_added_before_and_after(speech: list[np.ndarray], bank: NoiseBank) -> None:
    clip = apply(replace(CLEAN, lead_s=0.1, tail_s=0.05), speech[0], bank)
    assert len(clip) == len(speech[0]) + 1600 + 800
    assert np.abs(clip[:1500]).max() <= 1
    assert np.corrcoef(clip[1600:-800], speech[0])[0, 1] > 0.9999


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_has_the_drawn_level(speech: list[np.ndarray], bank: NoiseBank, noise: str, snr_db: float) -> None:
    voice = np.random.default_rng(9).standard_normal(SAMPLE_RATE).astype(np.float32)  # unlike any noise in the bank
    clip = apply(replace(CLEAN, noise=noise, snr_db=snr_db), voice, bank).astype(float)
    gain = clip @ voice / (voice @ voice)
    rest = clip - gain * voice
    assert 10 * np.log10((gain * voice) @ (gain * voice) / (rest @ rest)) == pytest.approx(snr_db, abs=0.7)


def test_noise_colours_fall_by_their_slopes(bank: NoiseBank) -> None:
    rng = np.random.default_rng(0)
    for name, db_per_octave in (("white", 0.0), ("pink", -3.0), ("brown", -6.0)):
        noise = bank.cut(name, 8 * SAMPLE_RATE, rng)
        fall = (power_db(noise, 3200, 6400) - power_db(noise, 200, 400)) / 4
        assert fall == pytest.approx(db_per_octave, abs=0.3), name


def test_a_cut_longer_than_the_bank_repeats_it(bank: NoiseBank) -> None:
    noise = bank.cut("pink", 20 * SAMPLE_RATE, np.random.default_rng(0))
    assert len(noise) == 20 * SAMPLE_RATE
    assert np.array_equal(noise[: 8 * SAMPLE_RATE], noise[8 * SAMPLE_RATE : 16 * SAMPLE_RATE])


def test_a_room_decays_by_60_db_in_its_reverberation_time() -> None:
    tail = _room(replace(CLEAN, room_t60_s=0.4), np.random.default_rng(0))[100:].astype(float)
    early, late = tail[:400], tail[len(tail) // 2 : len(tail) // 2 + 400]
    assert 10 * np.log10((early @ early) / (late @ late)) == pytest.approx(30, abs=3)


def test_a_room_rings_after_the_sound(bank: NoiseBank) -> None:
    click = np.zeros(SAMPLE_RATE // 2, np.float32)
    click[800] = 1
    dry, wet = (apply(replace(CLEAN, room_t60_s=t60), click, bank).astype(float) for t60 in (0.0, 0.4))
    assert np.abs(dry[1000:]).max() <= 1
    assert np.abs(wet[1000:4000]).max() > 100
    assert np.abs(wet[:790]).max() <= 1  # nothing sounds before its cause


def test_a_telephone_line_removes_what_lies_outside_its_band(bank: NoiseBank) -> None:
    noise = np.random.default_rng(2).standard_normal(SAMPLE_RATE).astype(np.float32)
    clip = apply(replace(CLEAN, telephone_hz=(300.0, 3400.0)), noise, bank)
    assert power_db(clip, 500, 3000) - power_db(clip, 4500, 8000) > 35
    assert power_db(clip, 500, 3000) - power_db(clip, 0, 90) > 20


def test_the_equaliser_follows_its_knots() -> None:
    gain = _channel(replace(CLEAN, eq_db=(0.0, 0.0, 0.0, 6.0, 0.0, 0.0, -6.0)), 8001, 16000)
    assert 20 * np.log10(gain[[1000, 8000, 0]]) == pytest.approx([6, -6, 0], abs=0.2)


def test_the_same_scene_gives_the_same_clip(speech: list[np.ndarray], bank: NoiseBank) -> None:
    scene = next(s for s in map(draw_scene, range(100)) if s.noise == "babble" and s.room_t60_s)
    assert np.array_equal(apply(scene, speech[1], bank), apply(scene, speech[1], bank))


@pytest.mark.parametrize("length", [1, 100, 22_050, 30_001, 100_000])
def test_transform_sizes_are_smooth_and_not_much_longer(length: int) -> None:
    size = _good_size(length)
    assert length <= size <= max(64, 1.34 * length)
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    assert size == 1
