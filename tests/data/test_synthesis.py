import importlib.util

import numpy as np
import pytest
from lightsleeper.data.synthesis import ACCENTS, VARIANTS, Engine, Utterance, require_espeak, word_times
from lightsleeper.errors import UserError


def say(engine: Engine, text: str = "turn on the light", **changes: object) -> Utterance:
    return engine.say(text, **{"accent": "en-us", "variant": "Alex", "rate_wpm": 160, "pitch": 50, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def test_a_phrase_has_audio_phonemes_and_word_times_in_order(engine: Engine) -> None:
    said = say(engine)
    seconds = len(said.samples) / said.rate_hz
    assert said.samples.dtype == np.int16
    assert 0.5 < seconds < 2
    assert len(said.word_starts_s) == len(said.word_ends_s) == 4
    edges = [t for pair in zip(said.word_starts_s, said.word_ends_s, strict=True) for t in pair]
    assert edges == sorted(edges)
    assert edges[-1] <= seconds
    assert said.phone_labels[0] == "t"
    assert said.phone_labels[-1] == "t"
    assert said.phone_starts_s == sorted(said.phone_starts_s)


def test_words_lie_where_the_sound_is(engine: Engine) -> None:
    said = say(engine, "cat")
    energy = said.samples.astype(float) ** 2
    start, end = (int(t * said.rate_hz) for t in (said.word_starts_s[0], said.word_ends_s[0]))
    assert energy[start:end].sum() > 0.98 * energy.sum()


def test_two_engines_say_the_same_list_alike_whatever_was_said_before() -> None:
    # flutter (croak), breath noise (whisper, f4) and the Klatt synthesiser all keep state between calls
    voices = ["croak", "whisper", "f4", "klatt2", "Alex", "caleb"]

    def recite() -> list[bytes]:
        with Engine() as fresh:
            return [say(fresh, variant=voice).samples.tobytes() for voice in voices]

    first = recite()
    with Engine() as other:
        say(other, "something else", variant="steph")
        assert recite() == first  # with another one open, whose library file must not be shared


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_accent_speaks(engine: Engine, accent: str) -> None:
    assert np.abs(say(engine, "water", accent=accent, variant="m3").samples).max() > 1000


def test_every_variant_speaks_and_none_clips_much(engine: Engine) -> None:
    heard = set()
    for variant in VARIANTS:
        samples = say(engine, "seven", variant=variant).samples.astype(int)
        assert np.abs(samples).max() > 1000, variant
        assert (np.abs(samples) > 32_700).mean() < 1e-3, variant
        heard.add(samples.tobytes())
    assert len(heard) == len(VARIANTS) == 89


def test_a_higher_rate_is_shorter_and_pitch_changes_the_sound(engine: Engine) -> None:
    assert len(say(engine, rate_wpm=215).samples) < 0.6 * len(say(engine, rate_wpm=90).samples)
    assert not np.array_equal(say(engine, pitch=15).samples, say(engine, pitch=90).samples)


def test_an_unknown_voice_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"no voice 'en-us\+nobody'"):
        say(engine, variant="nobody")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[demo\]"):
        require_espeak()
    with pytest.raises(UserError, match=r"\[demo\]"):
        Engine()


def test_phonemes_are_filed_under_the_word_at_their_text_position() -> None:
    events = [(100, 1, b"a"), (300, 1, b"b"), (400, 4, b"c"), (700, 4, b"_:"), (800, 4, b"_")]
    assert word_times("ab cd", events, 800) == ([100, 400], [400, 700])


def test_a_pause_between_words_belongs_to_neither() -> None:
    events = [(0, 1, b"a"), (300, 1, b"_!"), (350, 4, b"c")]
    assert word_times("ab cd", events, 800) == ([0, 350], [300, 800])


def test_words_that_the_engine_joins_are_divided_by_letters() -> None:
    events = [(0, 1, b"a"), (500, 6, b"l")]  # "on the" carries the position of "on"
    assert word_times("on t law", [(0, 1, b"a"), (600, 6, b"l")], 900) == ([0, 400, 600], [400, 600, 900])
    assert word_times("on t law", [(0, 3, b"a"), *events[1:]], 900)[0][0] == 0


def test_a_first_word_without_phonemes_shares_the_next_ones_stretch() -> None:
    starts, ends = word_times("ab cd", [(200, 4, b"c")], 600)
    assert (starts, ends) == ([200, 400], [400, 600])


def test_without_any_phoneme_the_clip_is_divided() -> None:
    assert word_times("ab cdef", [], 600) == ([0, 200], [200, 600])
