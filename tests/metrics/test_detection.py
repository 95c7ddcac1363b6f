import math
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.detection import FRRAtFalseAlarms, two_stage
from lightsleeper.metrics.events import EventDecoder
from lightsleeper.metrics.exact import mcnemar, share

FRAME_S = 0.02
KEYWORDS = [(100.0 + 50 * i, 100.7 + 50 * i) for i in range(60)]  # in an hour of audio


def scored(seed: int, quality: float, frames: int = 180_000) -> torch.Tensor:
    """Scores of an hour: noise, and a bump at the end of each keyword."""
    rng = np.random.default_rng(seed)
    track = rng.standard_normal(frames)
    for _, end in KEYWORDS:
        at = round(end / FRAME_S)
        track[at : at + 5] += quality * rng.random()
    return torch.from_numpy(track).float()


def filled(track: torch.Tensor, **arguments) -> FRRAtFalseAlarms:
    metric = FRRAtFalseAlarms(frame_s=FRAME_S, **arguments)
    metric.add_stream(0, KEYWORDS)
    metric.update(track, 0, 0)
    return metric


def test_frr_at_a_target_is_the_lowest_of_all_thresholds_that_keep_to_it():
    metric = filled(scored(0, 7.0), fa_per_hour=5)
    alarms, peaks = metric._alarms(), metric._peaks()
    pooled = np.unique(np.concatenate([alarms.scores[alarms.scores > 3], peaks]))
    rates = alarms.counts(pooled) / alarms.hours
    best = min((peaks < threshold).mean() for threshold, rate in zip(pooled, rates, strict=True) if rate <= 5)
    assert float(metric.compute()) == pytest.approx(best)
    threshold = metric.threshold()
    assert alarms.count(threshold) / alarms.hours <= 5
    assert (peaks < threshold).mean() == pytest.approx(best)
    assert threshold not in pooled  # between two scores, not on one


def test_the_exported_device_fires_as_counted():
    metric = filled(scored(1, 7.0), fa_per_hour=20, smoothing_frames=2)
    threshold = metric.threshold()
    decoder = EventDecoder(threshold, FRAME_S, smoothing_frames=2)
    events = decoder.events(scored(1, 7.0).numpy())
    outside = [e for e in events if not any(b - 1e-9 <= e.time_s <= end + 1.5 + 1e-9 for b, end in KEYWORDS)]
    assert len(outside) == metric._alarms().count(threshold)
    fired = metric.results("", threshold)["frr_fired"]
    assert fired.value >= metric.results("", threshold)["frr"].value


def test_any_chunks_in_any_order_give_the_same_numbers():
    track = scored(2, 6.0)
    whole = filled(track, smoothing_frames=3)
    chunked = FRRAtFalseAlarms(frame_s=FRAME_S, smoothing_frames=3)
    edges = [0, 7, 5000, 5001, 90_000, len(track)]
    for a, b in list(zip(edges[:-1], edges[1:], strict=True))[::-1]:
        chunked.update(track[a:b], 0, a)
    chunked.add_stream(0, KEYWORDS)
    assert chunked.results("", 2.5) == whole.results("", 2.5)
    assert chunked.curve() == whole.curve()


def test_a_detector_that_knows_everything_makes_no_error():
    metric = FRRAtFalseAlarms(frame_s=FRAME_S)
    track, back = torch.zeros(180_000), torch.zeros(180_000)
    for begin, end in KEYWORDS:
        at = round(end / FRAME_S) - 1  # the frame that is known at the end
        track[at], back[at] = 1, end - begin
    metric.add_stream(0, KEYWORDS)
    metric.update(track, 0, 0, back)
    found = metric.results("", metric.threshold())
    assert found["frr"].value == found["frr_fired"].value == found["fa_per_hour"].value == 0
    assert found["start_error_s"].value == pytest.approx(0, abs=1e-6)
    assert found["end_error_s"].value == pytest.approx(0, abs=1e-9)
    assert found["iou"].value == pytest.approx(1)
    assert found["frr"].high == share(0, 60).high


def test_detectors_that_always_or_never_fire():
    always, never = filled(torch.ones(180_000)), filled(torch.zeros(180_000))
    hours = always._alarms().hours
    assert hours == pytest.approx((3600 - 60 * (0.7 + 0.5 + 1.0 + FRAME_S)) / 3600, abs=1e-4)
    assert always.results("", 0.5)["frr"].value == 0
    assert always.results("", 0.5)["fa_per_hour"].value == pytest.approx(3600, rel=0.02)
    found = never.results("", 0.5)
    assert (found["frr"].value, found["fa_per_hour"].value) == (1, 0)
    assert found["fa_per_hour_bound"].value == pytest.approx(-math.log(0.05) / hours)
    assert found["negative_hours_needed"].value == pytest.approx(-math.log(0.05) / 0.5)


@pytest.mark.parametrize("refractory_s", [0.5, 1.0, 2.0])
def test_a_detector_that_always_fires_gives_an_event_a_refractory_time(refractory_s: float):
    metric = FRRAtFalseAlarms(frame_s=FRAME_S, refractory_s=refractory_s)
    metric.add_stream(0, [])
    metric.update(torch.ones(180_000), 0, 0)
    assert metric.results("", 0.5)["fa_per_hour"].value == pytest.approx(3600 / refractory_s)
    events = EventDecoder(0.5, FRAME_S, refractory_s=refractory_s).events([1.0] * 500)
    assert np.diff([event.time_s for event in events]).tolist() == pytest.approx([refractory_s] * (len(events) - 1))
    assert len(events) == 10 / refractory_s


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_frr_never_falls_and_false_alarms_never_rise_with_the_threshold(seed: int):
    metric = filled(scored(seed, 5.0, 60_000), fa_per_hour=50)
    curve = metric.curve()
    assert curve["threshold"] == sorted(curve["threshold"])
    assert all(a <= b for a, b in zip(curve["y"], curve["y"][1:], strict=False))
    assert all(a >= b for a, b in zip(curve["x"], curve["x"][1:], strict=False))
    assert max(curve["x"]) <= 100


def test_delaying_audio_and_keywords_changes_nothing():
    track = scored(3, 6.0)
    delayed = FRRAtFalseAlarms(frame_s=FRAME_S)
    delayed.add_stream(0, [(b + 1, e + 1) for b, e in KEYWORDS])
    delayed.update(torch.cat([torch.full((50,), -9.0), track]), 0, 0)
    assert float(delayed.compute()) == float(filled(track).compute())


def test_a_clip_that_is_one_keyword_has_no_negative_audio():
    metric = FRRAtFalseAlarms(frame_s=FRAME_S)
    for clip, best in enumerate([0.9, 0.2, 0.8]):
        metric.add_stream(clip, [(0.0, math.inf)])
        metric.update(torch.tensor([0.1, best, 0.1]), clip, 0)
    assert metric._alarms().hours == 0
    assert math.isnan(float(metric.compute()))
    metric.update(torch.linspace(0, 0.5, 180_000), 3, 0)
    assert float(metric.compute()) == pytest.approx(1 / 3)
    assert metric.outcomes(0.5).tolist() == [True, False, True]
    other = torch.tensor([True, True, False])
    assert mcnemar(metric.outcomes(0.5), other)[:2] == (1, 1)


def test_a_stretch_that_was_never_scored_is_neither_hours_nor_a_detection():
    metric = FRRAtFalseAlarms(frame_s=FRAME_S)
    metric.add_stream(0, [(2.0, 2.5)])
    metric.update(torch.zeros(50), 0, 0)
    metric.update(torch.ones(50), 0, 500)
    assert metric._alarms().hours == pytest.approx(100 * FRAME_S / 3600)
    assert metric.outcomes(0.5).tolist() == [False]


def test_keywords_that_were_never_played_are_no_rejects():
    played = scored(0, 9.0)[: round(1000 / FRAME_S)]  # of the hour's 60 keywords, 18 begin before 1000 s
    metric = filled(played, fa_per_hour=5)
    assert metric.results(threshold=math.inf)["test/frr"].n == 18
    nothing = FRRAtFalseAlarms(frame_s=FRAME_S)
    nothing.add_stream(0, [(0.0, math.inf)])  # a recording shorter than a hop
    assert nothing.results(threshold=0.5)["test/frr"].value == 1


def test_frames_scored_twice_are_refused():
    metric = FRRAtFalseAlarms(frame_s=FRAME_S)
    metric.update(torch.zeros(50), 0, 0)
    metric.update(torch.zeros(50), 0, 25)
    with pytest.raises(ValueError, match="stream 0: frame 25 was scored twice"):
        metric.compute()


def test_selection_puts_false_alarms_first_and_rejects_second():
    good, poor = filled(scored(4, 9.0)), filled(scored(4, 7.0))
    assert good.selection() == pytest.approx(float(good.compute()))
    assert good.selection() < poor.selection() <= 1
    track = torch.zeros(180_000)
    track[::500] = 1  # 360 an hour, over every keyword
    hopeless = filled(track)
    assert hopeless.selection() > 100
    assert (two_stage(0.2, 0.4, 0.5), two_stage(0.2, 3.5, 0.5)) == (0.2, 4.0)


def test_scores_that_are_no_numbers_detect_nothing():
    metric = filled(torch.full((180_000,), math.nan))
    assert float(metric.compute()) == 1.0
    assert metric.results("", 0.5)["fa_per_hour"].value == 0


def test_reset_forgets_everything():
    metric = filled(scored(0, 5.0))
    metric.compute()
    metric.reset()
    metric.update(torch.zeros(0), 0, 0)
    assert math.isnan(float(metric.compute()))
    assert metric.results("")["negative_hours"].value == 0


WORKER = """
    import sys, torch, torch.distributed as dist
    from lightsleeper.metrics.detection import FRRAtFalseAlarms
    from metrics.test_detection import KEYWORDS, scored

    rank, layout = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", rank=rank, world_size=2)
    metric = FRRAtFalseAlarms(fa_per_hour=3)
    for stream in (0, 1, 2):
        # every process knows the keywords; stream 0 is scored by one process, or by both as a padding sampler would
        metric.add_stream(stream, KEYWORDS)
        if rank == (0 if layout == "one rank empty" else stream % 2) or (layout == "split" and stream == 0):
            metric.update(scored(stream, 7.0), stream, 0)
    print(repr((float(metric.compute()), metric.threshold(), metric.selection(), metric.results("", 3.0))))
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("layout", ["split", pytest.param("one rank empty", marks=pytest.mark.slow)])
def test_two_processes_equal_one(layout: str, tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tests = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), layout], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    alone = FRRAtFalseAlarms(fa_per_hour=3)
    for stream in (0, 1, 2):
        alone.add_stream(stream, KEYWORDS)
        alone.update(scored(stream, 7.0), stream, 0)
    expected = repr((float(alone.compute()), alone.threshold(), alone.selection(), alone.results("", 3.0)))
    assert outputs == [expected, expected]
