"""`lightning bench keywords`: typed keywords in a stream, and one threshold for all of them.

`latency`: what a second of audio costs with ten keywords against one. `normalize`: equal error rates of validation
pairs with one threshold for all texts, for scores as they are and measured against other texts. `threshold`: share of
keywords found and false alarms an hour in a stream of validation phrases, by threshold.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.bench.conditions import chosen_parts, conditions
from lightsleeper.bench.keyword_streams import Line, PhraseStream, keyword_of, phrase_stream
from lightsleeper.bench.timing import in_turns, shown, spread
from lightsleeper.deploy.cohort import Cohort
from lightsleeper.deploy.detection import IMPOSSIBLE
from lightsleeper.deploy.keyword_stream import KeywordEvent, KeywordStream, detect_stream, longest_s, same
from lightsleeper.deploy.many_keywords import ManyKeywords
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.deploy.runtime import Matcher
from lightsleeper.errors import UserError

PARTS = ("latency", "normalize", "threshold")
MANY = 10  # keywords at once
TARGET = 1.3  # cost of ten against one
RATES = (20.0, 10.0, 5.0, 2.0, 1.0)  # false alarms an hour


def run(args: Any, matcher: Matcher | ManyKeywords) -> dict[str, Any]:
    """Measure, print and return all numbers. ``args``: ``model`` (its name), ``part``, ``quick``, ``repeats``,
    ``threads``. Raises UserError for a matcher that takes no keywords at once."""
    parts = chosen_parts("keywords", args.part, PARTS)
    threads = args.threads or 1
    if not isinstance(matcher, ManyKeywords):
        raise UserError(f"{args.model} has no graphs for many keywords: export its run again.")
    repeats = args.repeats or (2 if args.quick else 5)
    runtime = "ONNX Runtime" if isinstance(matcher.encoder, OnnxGraph) else "PyTorch"  # of a run folder
    known = {"repeats": repeats, "model": Path(args.model).name, "runtime": runtime}
    found: dict[str, Any] = {"conditions": conditions(threads, **known)}
    print("keywords: " + ", ".join(f"{name} {value}" for name, value in found["conditions"].items()))
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "latency": lambda: latency(matcher, phrase_stream(20 if args.quick else 60), repeats),
        "normalize": lambda: normalize(matcher, 90 if args.quick else None),
        "threshold": lambda: threshold(matcher, phrase_stream(120 if args.quick else 1200)),
    }
    for part in parts:
        found[part] = measure[part]()
    return found


def latency(matcher: ManyKeywords, heard: PhraseStream, repeats: int) -> dict[str, Any]:
    """Milliseconds a second of audio, for each of ten keywords alone and for all; half of them are said.

    All hear windows of one length, that of the longest keyword.
    """
    texts = [*heard.texts[: MANY // 2], *heard.others[: MANY - MANY // 2]]
    typed = [[keyword_of(text)] for text in texts]

    window_s = longest_s(matcher.enroll(typed))

    def listens(keywords: list) -> Callable[[], list]:
        stream = KeywordStream(matcher, matcher.enroll(keywords), window_s=window_s)
        return lambda: list(detect_stream(stream, heard.audio))

    calls = {text: listens([ways]) for text, ways in zip(texts, typed, strict=True)} | {"all": listens(typed)}
    taken = in_turns(calls, repeats)
    ones = [sum(values) / len(texts) for values in zip(*(taken[text] for text in texts), strict=True)]
    one, many = (spread([ms / heard.seconds for ms in times]) for times in (ones, taken["all"]))
    ratio = float(np.median([b / a for a, b in zip(ones, taken["all"], strict=True)]))
    print(f"\n{heard.seconds:.0f} s of phrases, windows of {window_s:.2g} s; ms a second of audio, median (10th-90th)")
    print(f"one keyword  {shown(one, 2):>24}   mean of {len(texts)}, {len(texts) // 2} of them said")
    print(f"{len(texts)} at once   {shown(many, 2):>24}")
    print(f"ratio {ratio:.2f}; target {TARGET:g}: {'reached' if ratio <= TARGET else 'MISSED'}")
    return {
        "texts": texts,
        "one_ms": one,
        "many_ms": many,
        "ratio": ratio,
        "seconds": heard.seconds,
        "window_s": window_s,
    }


def normalize(matcher: ManyKeywords, most: int | None) -> dict[str, Any]:
    """Equal error rates (%) and their threshold, of validation pairs scored as clips."""
    from lightsleeper.data.spoken_phrases import SpokenPhrases

    data = SpokenPhrases()
    data.load()
    pairs = data.pairs["val"]
    chosen = pairs.select(np.argsort(pairs.clip, kind="stable")[:: 1 if most is None else max(1, len(pairs) // most)])
    plain, measured = np.empty(len(chosen)), np.empty(len(chosen))
    for row in range(len(chosen)):
        enrolled = matcher.enroll([[keyword_of(chosen.texts[chosen.text[row]])]])
        frames = matcher.encode(data.corpus.audio(int(chosen.clip[row])))
        score = np.maximum(matcher.match(frames, enrolled)["score"], IMPOSSIBLE)
        cohort = Cohort.confusables(matcher, enrolled)
        plain[row], measured[row] = score[0], cohort.measured(matcher, frames, score, np.array([0]))[0]
    found = {}
    print(f"\n{len(chosen)} validation pairs, one threshold for all texts; equal error rate, %")
    print(f"{'':24}{'easy':>8}{'hard':>8}{'both':>8}{'threshold':>12}")
    for name, scores in (("as they are", plain), ("against other texts", measured)):
        rates = {
            kind: 100 * equal_error(scores[keep], chosen.label[keep])[0]
            for kind, keep in (("easy", chosen.kind != 2), ("hard", chosen.kind != 1), ("both", chosen.kind >= 0))
        }
        limit = equal_error(scores, chosen.label)[1]
        found[name] = {**rates, "threshold": limit}
        print(f"{name:24}" + "".join(f"{rate:8.2f}" for rate in rates.values()) + f"{limit:12.3f}")
    return found


def equal_error(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """The rate at which misses and false alarms are equal, and the threshold."""
    order = np.argsort(-scores, kind="stable")
    said = labels[order] == 1
    missed = 1 - np.cumsum(said) / max(said.sum(), 1)
    false = np.cumsum(~said) / max((~said).sum(), 1)
    at = int(np.argmin(np.abs(missed - false)))
    return float((missed[at] + false[at]) / 2), float(scores[order[at]])


def threshold(matcher: ManyKeywords, heard: PhraseStream) -> dict[str, Any]:
    """Keywords found (%) by threshold and false alarms an hour, all keywords together."""
    texts = [*dict.fromkeys(heard.texts[: MANY // 2] + heard.others[: MANY - MANY // 2])]
    stream = _Scores(matcher, matcher.enroll([[keyword_of(text)] for text in texts]), threshold=np.inf)
    deque(detect_stream(stream, heard.audio), maxlen=0)
    events = stream.best()
    said = [line for line in heard.lines if line.text in texts]
    right = {index for index, event in enumerate(events) if any(_hits(event, line) for line in said)}
    alarms = sorted((event.score for index, event in enumerate(events) if index not in right), reverse=True)
    best = [max((event.score for event in events if _hits(event, line)), default=-np.inf) for line in said]
    print(f"\n{len(texts)} keywords in {heard.seconds / 60:.0f} minutes of phrases, said {len(said)} times")
    print(f"{'false alarms an hour':>22}{'threshold':>12}{'found, %':>10}")
    limits = {rate: _limit(alarms, int(rate * heard.seconds / 3600)) for rate in RATES}
    own = {} if matcher.threshold is None else {"the model's own": matcher.threshold}
    rows = []
    for name, limit in (limits | own).items():
        rate = 3600 * sum(score > limit for score in alarms) / heard.seconds
        found = 100 * float(np.mean([score > limit for score in best]))
        rows.append({"alarms_per_hour": rate, "threshold": float(limit), "found": found})
        print(f"{rate:22.1f}{limit:12.3f}{found:10.1f}" + (f"   {name}" if isinstance(name, str) else ""))
    return {"texts": texts, "said": len(said), "rows": rows, "seconds": heard.seconds}


class _Scores(KeywordStream):
    """Keeps everything that was looked at."""

    def reset(self) -> None:
        super().reset()
        self.seen: list[KeywordEvent] = []

    def look(self, rows: NDArray[np.intp], first: int, end: int) -> list[KeywordEvent]:
        found = super().look(rows, first, end)
        self.seen += found
        return found

    def best(self) -> list[KeywordEvent]:
        """The best in its place, as a stream that waits would tell it at the lowest threshold."""
        kept: list[KeywordEvent] = []
        for event in sorted(self.seen, key=lambda event: -event.score):
            if not any(same(event, other) for other in kept):
                kept.append(event)
        return kept


def _limit(alarms: list[float], count: int) -> float:
    """The lowest threshold that at most ``count`` of the falling scores ``alarms`` exceed."""
    return alarms[count] if count < len(alarms) else -np.inf


def _hits(event: KeywordEvent, line: Line) -> bool:
    return event.keyword == line.text and min(event.end_s, line.end_s) > max(event.start_s, line.start_s)
