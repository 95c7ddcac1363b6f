"""Typed keywords in a stream of tones: found once, in their places, whatever the chunks; and many at once."""

import numpy as np
import pytest
import torch
from lightsleeper.deploy.cohort import Cohort
from lightsleeper.deploy.detection import detect, detect_all
from lightsleeper.deploy.keyword import Keyword
from lightsleeper.deploy.keyword_stream import KeywordStream, detect_stream
from lightsleeper.deploy.many_keywords import ManyKeywords, has_graphs
from lightsleeper.deploy.runtime import OnnxModel, TorchModel
from lightsleeper.errors import UserError
from lightsleeper.models.kws_dsp import KeywordDSP
from lightsleeper.models.kws_phoneme import KeywordPhoneme
from lightsleeper.phones import PHONE_IDS
from tiny_matcher import TinyMatcher
from tiny_tones import RATE, Tones, silence, spoken

STOP, STEP, GO, LIGHT = "S T AA P", "S T EH P", "G OW", "L AY T"


def typed(text: str, *ways: str) -> list[Keyword]:
    keywords = []
    for way in ways:
        phones = np.array([PHONE_IDS[phone] for phone in way.split()])
        keywords.append(Keyword(text, phones, np.zeros_like(phones), (text,), way, ("user",)))
    return keywords


@pytest.fixture(scope="module")
def matcher() -> ManyKeywords:
    found = TorchModel(Tones()).many()
    assert found is not None
    return found


def stream(matcher: ManyKeywords, *keywords: list[Keyword], **how: float) -> KeywordStream:
    return KeywordStream(matcher, matcher.enroll(keywords), **how)  # type: ignore[arg-type]


def sentence() -> np.ndarray:
    """stop at 1.0 s, go at 2.4 s, light at 4.0 s, and other words around them."""
    parts = [silence(1.0), spoken(STOP), silence(0.92), spoken(GO), spoken("M AA N"), silence(1.0), spoken(LIGHT)]
    audio = np.concatenate([*parts, silence(0.9)])
    return (audio + 1e-4 * np.random.default_rng(0).standard_normal(len(audio))).astype(np.float32)


def test_every_keyword_is_told_once_where_it_was_said(matcher: ManyKeywords) -> None:
    found = list(
        detect_stream(stream(matcher, typed("stop", STOP), typed("go", GO), typed("light", LIGHT)), sentence())
    )
    assert [event.keyword for event in found] == ["stop", "go", "light"]
    for event, start_s, end_s in zip(found, (1.0, 2.4, 4.0), (1.48, 2.64, 4.36), strict=True):
        assert event.start_s == pytest.approx(start_s, abs=0.15)
        assert event.end_s == pytest.approx(end_s, abs=0.15)
        assert event.score > -1.0
        assert event.end_s - 0.1 <= event.time_s <= event.end_s + 0.6


@pytest.mark.parametrize("chunk", [100, 641, 16_000, 200_000])
def test_any_chunks_give_the_same_events(matcher: ManyKeywords, chunk: int) -> None:
    audio = sentence()
    whole = list(detect_stream(stream(matcher, typed("stop", STOP), typed("light", LIGHT)), audio))
    listening = stream(matcher, typed("stop", STOP), typed("light", LIGHT))
    found = [event for at in range(0, len(audio), chunk) for event in listening.push(audio[at : at + chunk])]
    assert found + listening.finish() == whole


def test_whole_numbers_are_samples_too(matcher: ManyKeywords) -> None:
    audio = (sentence() * 32767).astype(np.int16)
    found = list(detect_stream(stream(matcher, typed("light", LIGHT)), audio))
    assert [event.keyword for event in found] == ["light"]


def test_of_two_keywords_in_one_place_the_better_one_is_told(matcher: ManyKeywords) -> None:
    listening = stream(matcher, typed("step", STEP), typed("stop", STOP), threshold=-9.0)
    found = list(detect_stream(listening, sentence()[: 2 * RATE]))
    assert [event.keyword for event in found] == ["stop"]


def test_a_keyword_said_twice_is_told_twice(matcher: ManyKeywords) -> None:
    audio = np.concatenate([silence(0.3), spoken(GO), silence(0.2), spoken(GO), silence(0.5)])
    found = list(detect_stream(stream(matcher, typed("go", GO)), audio))
    assert len(found) == 2
    assert found[0].end_s < found[1].end_s


def test_a_keyword_that_nobody_said_is_not_told_and_costs_no_look(
    matcher: ManyKeywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = stream(matcher, typed("fish", "F IH SH"))
    monkeypatch.setattr(listening, "look", lambda *args: pytest.fail("looked at"))
    assert list(detect_stream(listening, sentence())) == []


def test_one_of_several_pronunciations_is_enough_and_is_named(matcher: ManyKeywords) -> None:
    listening = stream(matcher, typed("light", "L IH T", LIGHT))
    (event,) = detect_stream(listening, sentence())
    assert listening.enrolled.keywords[event.row].said == LIGHT


def test_a_stretch_is_looked_at_once_and_one_nearby_is_the_same(matcher: ManyKeywords) -> None:
    listening, frame = stream(matcher, typed("go", GO)), 640
    place, fit = np.array([[6400, 19_200]]), np.zeros(1, np.float32)
    assert listening._next(fit, place, frame).tolist() == [0]
    assert listening._next(fit, place + 2 * frame, frame).tolist() == []
    assert listening._next(fit, place + 3 * frame, frame).tolist() == [0]


@pytest.mark.parametrize("token", ["phone", "word"])
def test_rows_alone_score_as_among_all(token: str) -> None:
    """Texts are then no longer than the longest of those rows."""
    many = TorchModel(KeywordDSP(encoder=TINY_ENCODER, token=token, dim=8).eval()).many()  # type: ignore[arg-type]
    assert many is not None
    enrolled = many.enroll([typed("stop", STOP), typed("go", GO), typed("long", " ".join([LIGHT, STOP, LIGHT]))])
    frames = many.encode(sentence())
    every = many.match(frames, enrolled)["score"]
    for rows in ([0], [1, 0], [2, 1]):
        np.testing.assert_allclose(many.match(frames, enrolled, rows=np.array(rows))["score"], every[rows], atol=1e-4)


def test_long_keywords_get_a_longer_window(matcher: ManyKeywords) -> None:
    long = " ".join(["S T AA P G OW"] * 5)
    assert stream(matcher, typed("go", GO)).window == 2 * RATE
    listening = stream(matcher, typed("long", long))
    assert listening.window == pytest.approx(4.5 * RATE)
    audio = np.concatenate([silence(0.4), spoken(long, 0.1), silence(0.6)])
    assert [event.keyword for event in detect_stream(listening, audio)] == ["long"]


def test_waiting_tells_later(matcher: ManyKeywords) -> None:
    at_once, later = (
        list(detect_stream(stream(matcher, typed("stop", STOP), wait_s=w), sentence())) for w in (0, 0.48)
    )
    assert [e.keyword for e in later] == ["stop"]
    assert later[0].time_s == pytest.approx(at_once[0].time_s + 0.48)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window_s": 0.1}, "window of 0.1 s and a hop of 0.24 s"),
        ({"hop_s": 0.0}, "hop of 0 s"),
        ({"wait_s": -1.0}, "expected a wait of 0 s or more"),
    ],
)
def test_windows_that_cannot_be_are_refused(matcher: ManyKeywords, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(matcher, typed("go", GO), **how)


def test_a_text_that_is_too_long_is_refused(matcher: ManyKeywords) -> None:
    with pytest.raises(UserError, match="'go' has 60 phones"):
        matcher.enroll([typed("go", " ".join([GO] * 30))])


def test_rows_do_not_depend_on_their_neighbours(matcher: ManyKeywords) -> None:
    keywords = [typed("stop", STOP), typed("light", LIGHT), typed("go", GO)]
    frames = matcher.encode(sentence())
    together = matcher.enroll(keywords)
    fit, stretches = matcher.segments(frames, together)
    scores = matcher.match(frames, together, stretches)["score"]
    for row, keyword in enumerate(keywords):
        alone = matcher.enroll([keyword])
        own_fit, own = matcher.segments(frames, alone)
        assert own.tolist() == [stretches[row].tolist()]
        assert own_fit[0] == pytest.approx(fit[row], abs=1e-5)
        assert matcher.match(frames, alone, own)["score"][0] == pytest.approx(scores[row], abs=1e-4)
    chosen = np.array([2, 0])
    assert matcher.match(frames, together, stretches[chosen], chosen)["score"] == pytest.approx(
        scores[chosen], abs=1e-4
    )


def test_many_at_once_score_as_one_by_one(matcher: ManyKeywords) -> None:
    audio, single = spoken(STOP), TorchModel(Tones())
    keywords = [typed("stop", STOP), typed("light", "L IH T", LIGHT)]
    together = detect_all(matcher, audio, keywords, "clip")
    for found, ways in zip(together, keywords, strict=True):
        best = max((detect(single, audio, way, "clip") for way in ways), key=lambda d: d.score)
        assert found.score == pytest.approx(best.score, abs=1e-4)
        assert (found.keyword, found.detected, found.pronunciation) == (best.keyword, best.detected, best.pronunciation)
    assert [d.detected for d in together] == [True, False]
    assert detect_all(single, audio, keywords)[1].pronunciation == together[1].pronunciation


def test_a_cohort_measures_scores_against_other_texts(matcher: ManyKeywords) -> None:
    enrolled = matcher.enroll([typed("stop", STOP), typed("light", LIGHT)])
    cohort = Cohort.confusables(matcher, enrolled, size=8)
    frames = matcher.encode(spoken(STOP))
    scores = matcher.match(frames, enrolled)["score"]
    measured = cohort.measured(matcher, frames, scores, np.array([0, 1]))
    assert measured[0] > 1
    assert measured[0] > measured[1] + 1
    listening = KeywordStream(matcher, enrolled, threshold=1.0, cohort=cohort)
    assert [event.keyword for event in detect_stream(listening, sentence())] == ["stop", "light"]
    with pytest.raises(UserError, match="without a threshold"):
        KeywordStream(matcher, enrolled, cohort=cohort)


def test_models_without_the_graphs_have_no_matcher_for_many(tmp_path) -> None:
    assert TorchModel(TinyMatcher()).many() is None
    assert not has_graphs(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"no encoder\.onnx beside it"):
        ManyKeywords.open(tmp_path / "model.onnx")


def test_exported_files_find_what_the_model_finds(matcher: ManyKeywords, tmp_path) -> None:
    from lightsleeper.deploy.export import export

    export(Tones().eval(), tmp_path, ["onnx"], parity_inputs=4)
    assert has_graphs(tmp_path / "model.onnx")
    exported = ManyKeywords.open(tmp_path / "model.onnx")
    assert exported.threshold == matcher.threshold == -1.0
    keywords = [typed("stop", STOP), typed("go", GO)]
    files, live = (list(detect_stream(stream(m, *keywords), sentence())) for m in (exported, matcher))
    assert [(e.keyword, e.start_s, e.end_s) for e in files] == [(e.keyword, e.start_s, e.end_s) for e in live]
    assert OnnxModel(tmp_path / "model.onnx").threshold == -1.0


TINY_ENCODER = {"dim": 16, "blocks": 1, "heads": 2, "kernel": 3, "n_mels": 20}


@pytest.mark.parametrize("family", ["phone", "word", "phoneme"])
def test_shipped_families_listen_and_a_whole_clip_scores_as_their_main_graph(family: str) -> None:
    torch.manual_seed(0)
    model = (
        KeywordPhoneme({"encoder": TINY_ENCODER}, width=16)
        if family == "phoneme"
        else KeywordDSP(encoder=TINY_ENCODER, token=family, dim=8)  # type: ignore[arg-type]
    )
    single = TorchModel(model.eval())
    many = single.many()
    assert many is not None
    audio, keywords = sentence(), [typed("stop", STOP), typed("light", "L IH T", LIGHT)]
    for found, ways in zip(detect_all(many, audio, keywords), keywords, strict=True):
        best = max(detect(single, audio, way).score for way in ways)
        assert found.score == pytest.approx(best, abs=1e-3)
    listening = KeywordStream(many, many.enroll(keywords), threshold=-1e9, least_fit=-np.inf)
    found = list(detect_stream(listening, audio))
    assert found
    assert all(0 <= event.start_s < event.end_s <= event.time_s + 1e-6 for event in found)
