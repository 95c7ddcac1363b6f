import numpy as np
import pytest
from lightsleeper.data.mfcc import mfcc, mfcc_of_frames


def plain(samples, window, hop, rate=16_000):
    """The definition, one frame and one filter at a time. Samples are 16-bit integers.

    Compared once with python_speech_features 0.6: equal to 2e-6 at 23.976, 24, 25 and 30 frames a second.
    """
    emphasised = [float(samples[0])] + [samples[i] - 0.97 * samples[i - 1] for i in range(1, len(samples))]
    count = 1 if len(samples) <= window else 1 + int(np.ceil((len(samples) - window) / hop))
    emphasised += [0.0] * (count * hop + window)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = [int(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / rate) for i in range(28)]
    rows = []
    for frame in range(count):
        power = np.abs(np.fft.rfft(emphasised[frame * hop : frame * hop + window], 512)) ** 2 / 512
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            band = sum(power[b] * (b - low) / (middle - low) for b in range(low, middle))
            band += sum(power[b] * (high - b) / (high - middle) for b in range(middle, high))
            bands.append(np.log(band or np.finfo(float).eps))
        row = []
        for k in range(13):
            value = sum(v * np.cos(np.pi * k * (2 * n + 1) / 52) for n, v in enumerate(bands))
            row.append(value * np.sqrt((1 if k == 0 else 2) / 26) * (1 + 11 * np.sin(np.pi * k / 22)))
        row[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("length", [1, 399, 400, 401, 560, 561, 2000])
@pytest.mark.parametrize(("fps", "window", "hop"), [(25, 400, 160), (30, 333, 133)])
def test_coefficients_are_those_of_the_plain_definition(length, fps, window, hop):
    samples = np.random.default_rng(length).integers(-3000, 3000, length).astype(np.int16)
    samples[length // 2 : length // 2 + 700] = 0
    np.testing.assert_allclose(mfcc(samples, fps=fps), plain(samples.astype(int), window, hop), rtol=1e-5, atol=1e-5)


def test_floats_are_scaled_to_sixteen_bits():
    samples = np.random.default_rng(0).integers(-3000, 3000, 1000).astype(np.int16)
    np.testing.assert_array_equal(mfcc(samples), mfcc((samples / 32768).astype(np.float32)))


@pytest.mark.parametrize("frames", [1, 2, 25])
@pytest.mark.parametrize("fps", [25, 30, 23.976])
def test_every_video_frame_has_four_frames_of_audio(frames, fps):
    samples = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    found = mfcc_of_frames(samples, frames, fps=fps)
    assert found.shape == (4 * frames, 13)
    np.testing.assert_allclose(found, mfcc(samples, fps=fps)[: 4 * frames], atol=1e-6)


def test_a_frame_hears_fifteen_milliseconds_beyond_its_end():
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    changed = samples.copy()
    changed[640 * 5 + 240 :] = 0
    before, after = mfcc_of_frames(samples, 10), mfcc_of_frames(changed, 10)
    np.testing.assert_array_equal(before[:20], after[:20])
    assert (before[20] != after[20]).any()


def test_audio_that_ends_early_is_followed_by_silence():
    found = mfcc_of_frames(np.full(640, 0.1, np.float32), 3)
    assert found.shape == (12, 13)
    assert (found[8:, 0] < -30).all()


def test_no_audio_is_refused():
    with pytest.raises(ValueError, match="no audio"):
        mfcc(np.zeros(0, np.float32))
