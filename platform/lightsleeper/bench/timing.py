"""Times of calls, and how they are told."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Spread = dict[str, float]


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    each: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each call, ``each`` of them together in every round: what else the machine does meets all alike.

    ``warm_up`` rounds before are not timed. ``clock`` gives seconds; the processor's (``time.process_time``) hardly
    counts what other processes do.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm_up):
        for call in calls.values():
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            started = clock()
            for _ in range(each):
                call()
            taken[name].append(1e3 * (clock() - started) / each)
    return taken


def timed(call: Callable[[], Any], repeats: int, scale: float = 1.0) -> Spread:
    """`spread` of ``repeats`` calls after one untimed, in ms times ``scale``."""
    taken = in_turns({"call": call}, repeats)["call"]
    return {**spread([scale * ms for ms in taken]), "repeats": repeats}


def spread(values: Sequence[float]) -> Spread:
    """Median, least and largest value, 10th and 90th percentile."""
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values), "p10": tenths[0], "p90": tenths[-1]}


def shown(found: Mapping[str, float], digits: int, ends: tuple[str, str] = ("p10", "p90")) -> str:
    """The median and in brackets two ``ends`` of a `spread`."""
    low, high = ends
    return f"{found['median']:.{digits}f} ({found[low]:.{digits}f}-{found[high]:.{digits}f})"
