from pathlib import Path

import pytest
from lightsleeper.generation.cache import Step, Trace
from lightsleeper.generation.timeline import draw, spans

TRACE = Trace([Step(0, 1.0, 1.5, 1.6, 4), Step(1, 3.0, 3.0, 3.1, 4)], begin=0.5, end=4.0)


def test_a_rank_computes_when_it_does_not_wait():
    computing, waiting = spans(TRACE)
    assert computing == [(0.5, 1.0), (1.5, 3.0), (3.0, 4.0)]
    assert waiting == [(1.0, 1.5)]
    assert TRACE.waited == pytest.approx(0.5)
    assert sum(end - begin for begin, end in computing + waiting) == pytest.approx(TRACE.end - TRACE.begin)


def test_a_picture_is_written_whole(tmp_path: Path):
    draw([TRACE, TRACE], tmp_path / "picture.svg", "two ranks")
    text = (tmp_path / "picture.svg").read_text()
    assert text.rstrip().endswith("</svg>")
