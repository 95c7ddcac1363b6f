from collections import Counter

import pytest
from data.made_speech import MadeSpeech
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.data.noise import DrawnSpeech, NoiseSource
from lightsleeper.data.streams import Joined, Scenery, Stream
from lightsleeper.data.word_clips import Spoken
from lightsleeper.data.word_streams import StreamPlan, by_speaker, lay_streams

SOURCE = MadeSpeech(400)
CLIPS = list(range(380))
PLAN = StreamPlan((2.0, 3.0), (1.0, 2.0), (5.0, 30.0), (0.1, 1.2), 24_000)


def laid(part: str = "test", others: tuple[int, ...] = (), seed: int = 0) -> list[Stream]:
    spoken = Spoken(SOURCE, CLIPS, {clip: [(0.1, 0.3, clip % 5)] for clip in CLIPS}, others)
    return lay_streams(spoken, NoiseSource(DrawnSpeech(SOURCE, CLIPS)), PLAN, part, seed)


def test_every_content_has_streams_of_a_minute_in_whole_chunks():
    assert Counter(stream.content for stream in laid()) == {"speech": 3, "babble": 2, "noise": 2, "silence": 2}
    assert Counter(stream.content for stream in laid("val")) == {"speech": 2, "babble": 1, "noise": 1, "silence": 1}
    for stream in laid():
        assert stream.samples == 40 * 24_000


def test_streams_say_utterances_of_their_own():
    said = [
        {placed.clip for placed in stream.placed}
        for stream in laid()
        if isinstance(stream, Scenery) and stream.content == "speech"
    ]
    assert all(said)
    assert sum(len(clips) for clips in said) == len(set.union(*said))


def test_noise_holds_no_babble_and_babble_nothing_else():
    for stream in laid():
        assert isinstance(stream, Scenery)
        kinds = {passage.noise for passage in stream.passages}
        assert stream.content != "noise" or "babble" not in kinds
        assert stream.content != "babble" or kinds == {"babble"}
        assert stream.content != "silence" or kinds <= {"white", "pink"}


def test_parts_and_seeds_are_different_streams():
    def plan(part: str, seed: int) -> list[int]:
        return [stream.passages[0].seed for stream in laid(part, seed=seed) if isinstance(stream, Scenery)]

    seeds = [*plan("val", 0), *plan("test", 0), *plan("test", 1)]
    assert len(set(seeds)) == len(seeds)
    assert plan("test", 0) == plan("test", 0)


def test_what_is_said_beside_the_vocabulary_is_joined_into_streams_of_its_own():
    streams = [stream for stream in laid(others=tuple(range(380, 400))) if stream.content == "negatives"]
    assert all(isinstance(stream, Joined) for stream in streams)
    clips = [clip for stream in streams if isinstance(stream, Joined) for clip in stream.clips]
    assert sorted(clips) == list(range(380, 400))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(0, 99))
def test_clips_come_speaker_after_speaker(speakers: list[str], seed: int):
    found = by_speaker(range(len(speakers)), speakers, seed)
    assert sorted(found) == list(range(len(speakers)))
    assert [speakers[clip] for clip in found] == sorted(speakers)
    assert found == by_speaker(range(len(speakers)), speakers, seed)


def test_a_part_may_have_no_quiet_streams():
    spoken = Spoken(SOURCE, CLIPS, {})
    plan = StreamPlan((1.0, 1.0), (0.0, 0.0), (5.0, 30.0), (0.1, 1.2), 24_000)
    found = lay_streams(spoken, NoiseSource(), plan, "val", 0)
    assert [stream.content for stream in found] == ["speech"]
    assert found[0].samples / 16_000 == pytest.approx(60, abs=1)
