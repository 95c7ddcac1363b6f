import math
import pickle
import time

import numpy as np
import pytest
from data.made_speech import MadeSpeech
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.noise import DrawnSpeech, NoiseSource
from lightsleeper.data.streams import HOP, Clip, Joined, Keyword, Scenery, StreamChunks
from lightsleeper.errors import UserError

RATE = 16_000
SOURCE = MadeSpeech(20)
SPEECH = list(range(5, 20))
KEYWORDS = [Keyword(clip, 0.1, 0.4) for clip in range(5)]


def scenery(seed: int = 0, seconds: float = 120.0, keywords: list[Keyword] = KEYWORDS, **arguments) -> Scenery:
    noise = NoiseSource(DrawnSpeech(SOURCE, SPEECH))
    return Scenery(SOURCE, keywords, SPEECH, noise, seconds, seed, **arguments)


@given(st.lists(st.integers(0, 120 * RATE), max_size=5))
@settings(max_examples=10, deadline=None)
def test_any_chunking_gives_the_same_samples(cuts: list[int]):
    whole = scenery().read(0, 120 * RATE)
    edges = [0, *sorted(cuts), 120 * RATE]
    pieces = scenery()
    assert np.array_equal(
        np.concatenate([pieces.read(a, b - a) for a, b in zip(edges, edges[1:], strict=False)]), whole
    )


def test_a_stretch_can_be_read_alone_and_backwards():
    stream = scenery(3)
    whole = stream.read(0, stream.samples)
    for start in range(100 * RATE, 0, -7 * RATE):
        assert np.array_equal(stream.read(start, 4321), whole[start : start + 4321])


def test_a_seed_is_a_stream():
    assert np.array_equal(scenery(1).read(0, 50_000), scenery(1).read(0, 50_000))
    assert not np.array_equal(scenery(1).read(0, 50_000), scenery(2).read(0, 50_000))


def test_every_keyword_is_placed_once_in_time_and_nothing_overlaps():
    stream = scenery(4)
    assert sorted(p.keyword.clip for p in stream.placed if p.keyword is not None) == [0, 1, 2, 3, 4]
    assert len(stream.events) == 5
    for begin, end in stream.events:
        assert end - begin == pytest.approx(0.3)
        assert 0 <= begin < end <= 120
    for one, other in zip(stream.placed, stream.placed[1:], strict=False):
        assert one.end < other.start
    assert [p.start for p in stream.passages][1:] == [p.end for p in stream.passages][:-1]
    assert stream.passages[-1].end == stream.samples


def test_a_keyword_has_exactly_the_snr_of_its_passage_and_lies_where_its_event_says():
    stream = scenery(5, snr_db=(5.0, 20.0))
    keywords = [(index, p) for index, p in enumerate(stream.placed) if p.keyword is not None]
    for (index, placed), (begin, end) in zip(keywords, stream.events, strict=True):
        number, passage = next((i, p) for i, p in enumerate(stream.passages) if p.start <= placed.start < p.end)
        assert placed.end <= passage.end
        a, b = round(begin * RATE), round(end * RATE)
        voice = stream._utterance(index)[a - placed.start : b - placed.start].astype(float)
        noise = stream._noise(number)[320:-320].astype(float)
        assert 10 * np.log10(np.mean(voice**2) / np.mean(noise**2)) == pytest.approx(passage.snr_db, abs=0.15)
        assert 5 <= passage.snr_db <= 20


def test_streams_hold_speech_and_quiet_and_every_noise():
    stream = scenery(6, seconds=3600.0, keywords=[])
    assert 0.25 < sum(placed.end - placed.start for placed in stream.placed) / stream.samples < 0.8
    assert {passage.noise for passage in stream.passages} == set(stream.noise.kinds)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_as_many_keywords_as_are_allowed_find_a_place_with_any_seed(seed: int):
    stream = scenery(seed, seconds=120.0, keywords=KEYWORDS * 3)
    assert len(stream.events) == 15


def test_too_many_keywords_are_refused():
    with pytest.raises(UserError, match="20 keywords need 0.04 hours of stream at 8 s each; there are 0.03"):
        scenery(seconds=120.0, keywords=KEYWORDS * 4)
    with pytest.raises(UserError, match="needs running speech"):
        Scenery(SOURCE, [], [], NoiseSource(), 60, 0)


def test_a_clip_is_a_stream_in_silence():
    clip = Clip(SOURCE, 2, pad_s=0.5)
    audio = clip.read(0, clip.samples)
    assert clip.samples % HOP == 0
    assert clip.events == [(0.0, math.inf)]
    assert np.array_equal(audio[8000 : 8000 + len(SOURCE.audio(2))], SOURCE.audio(2))
    assert not audio[:8000].any()
    assert not audio[8000 + len(SOURCE.audio(2)) :].any()
    assert Clip(SOURCE, 2, positive=False).events == []


def test_joined_recordings_follow_each_other():
    joined = Joined(SOURCE, [3, 4, 5])
    audio = joined.read(0, joined.samples)
    first, second = SOURCE.audio(3), SOURCE.audio(4)
    assert np.array_equal(audio[: len(first)], first)
    assert np.array_equal(audio[len(first) + 8000 :][: len(second)], second)
    assert np.array_equal(np.concatenate([joined.read(0, 777), joined.read(777, joined.samples - 777)]), audio)


def test_chunks_cover_every_stream_in_order():
    streams = {7: scenery(1, 30.0, []), 9: Clip(SOURCE, 1)}
    chunks = StreamChunks(streams, chunk=10 * RATE)
    items = list(chunks)
    assert len(items) == len(chunks) == 4
    assert [(item["stream"], item["first"], item["last"], item["start_s"]) for item in items] == [
        (7, True, False, 0.0), (7, False, False, 10.0), (7, False, True, 20.0), (9, True, True, 0.0),
    ]  # fmt: skip
    assert items[3]["events"] == [(0.0, math.inf)]
    assert all(item["audio"].shape[1] % HOP == 0 and item["audio"].shape[0] == 1 for item in items)
    with pytest.raises(ValueError, match="not a multiple"):
        StreamChunks(streams, chunk=1000)


def test_processes_share_streams_not_chunks(monkeypatch: pytest.MonkeyPatch):
    streams = {number: Clip(SOURCE, number) for number in range(5)}
    seen = []
    for rank in range(2):
        monkeypatch.setattr("lightsleeper.data.streams._ranks", lambda rank=rank: (rank, 2))
        seen += [item["stream"] for item in StreamChunks(streams, chunk=10 * RATE)]
    assert seen == [0, 2, 4, 1, 3]
    monkeypatch.setattr("lightsleeper.data.streams._ranks", lambda: (5, 6))
    assert [item["stream"] for item in StreamChunks(streams, chunk=10 * RATE)] == [0]  # none is idle


def test_a_stream_travels_to_a_worker_without_what_it_has_rendered():
    stream = scenery(2)
    before = stream.read(0, 60 * RATE)
    copy = pickle.loads(pickle.dumps(stream))
    assert not any(copy._kept.values())
    assert np.array_equal(copy.read(0, 60 * RATE), before)


def test_memory_stays_flat_and_rendering_is_much_faster_than_real_time():
    stream = scenery(8, seconds=600.0)
    began = time.process_time()
    for start in range(0, stream.samples, 10 * RATE):
        stream.read(start, 10 * RATE)
        assert sum(map(len, stream._kept.values())) <= 6
    assert 600 / (time.process_time() - began) > 60  # 500 on one busy core


WORDS = {clip: [(0.1, 0.3, clip % 2), (0.3, 0.5, 2)] for clip in range(5, 12)}


def test_words_of_running_speech_lie_where_their_utterance_begins():
    stream = scenery(5, keywords=[], words=WORDS, talk=1.0)
    expected = [
        (placed.start / RATE + begin, placed.start / RATE + end, word)
        for placed in stream.placed
        for begin, end, word in WORDS.get(placed.clip, ())
    ]
    assert stream.events == expected
    assert len(expected) > 10
    assert {passage.noise_db < passage.speech_db for passage in stream.passages} == {True}


def test_words_have_the_level_of_their_passage_and_other_speech_lies_around_it():
    stream = scenery(7, keywords=[], words=WORDS, talk=1.0)
    off = []
    for index, placed in enumerate(stream.placed):
        passage = next(p for p in stream.passages if p.start <= placed.start < p.end)
        off.append(placed.level_db - passage.speech_db)
        if placed.clip in WORDS:
            assert off[-1] == 0.0
            heard = stream._utterance(index)[round(0.1 * RATE) : round(0.5 * RATE)].astype(np.float64)
            assert 10 * np.log10(np.mean(heard**2)) == pytest.approx(passage.speech_db, abs=0.01)
    assert 1 < max(abs(level) for level in off) <= 4


def test_a_stream_without_talk_is_noise_of_the_chosen_kinds_and_levels():
    noise = NoiseSource(DrawnSpeech(SOURCE, SPEECH))
    stream = Scenery(
        SOURCE, (), (), noise, 60.0, 0, talk=0.0, kinds=("pink", "hum"), quiet_dbfs=(-60.0, -50.0), content="noise"
    )
    assert stream.placed == []
    assert stream.events == []
    assert {passage.noise for passage in stream.passages} <= {"pink", "hum"}
    assert all(-60 <= passage.noise_db <= -50 for passage in stream.passages)
    level = 10 * np.log10(np.mean(stream.read(0, stream.samples).astype(np.float64) ** 2))
    assert -61 < level < -49


def test_gaps_between_utterances_are_as_asked():
    stream = scenery(6, keywords=[], gap_s=(0.5, 0.6), talk=1.0)
    inside = [
        (other.start - one.end) / RATE
        for one, other in zip(stream.placed, stream.placed[1:], strict=False)
        if not any(one.end <= passage.start <= other.start for passage in stream.passages)
    ]
    assert inside
    assert all(0.5 <= gap <= 0.601 for gap in inside)


def test_joined_recordings_keep_their_words_and_end_on_a_whole_step():
    joined = Joined(SOURCE, [5, 6, 12], gap_s=0.25, words=WORDS, step=3840)
    second = SOURCE.seconds(5) + 0.25
    assert joined.content == "speech"
    expected = [*WORDS[5], *((second + a, second + b, w) for a, b, w in WORDS[6])]
    assert np.allclose(joined.events, expected)
    assert joined.samples % 3840 == 0
    assert np.array_equal(joined.read(round(second * RATE), 4000), SOURCE.audio(6)[:4000])


def test_chunks_say_what_their_stream_holds_and_how_long_it_is():
    streams = {3: scenery(1, 20.0, keywords=[], words=WORDS), 4: Joined(SOURCE, [5, 6])}
    chunks = list(StreamChunks(streams, 10 * RATE))
    assert [(chunk["stream"], chunk["content"], chunk["seconds"]) for chunk in chunks] == [
        (3, "speech", 20.0), (3, "speech", 20.0), (4, "negatives", streams[4].samples / RATE),
    ]  # fmt: skip
