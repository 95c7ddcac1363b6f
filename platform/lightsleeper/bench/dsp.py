"""`lightning bench dsp`: what the matcher runs against plain references, for equality, speed and memory.

Two references run sample by sample: ``plain`` is the paper's recursion as three loops with prefix sums, ``inner`` the
same with its innermost loop as tensor operations, which a careful first version would have. They are timed on a few
rows and scaled to the batch (their rows are independent loops); ``reference_rows`` sets how many.
"""

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightsleeper.bench.conditions import conditions, torch_threads
from lightsleeper.bench.timing import shown, timed
from lightsleeper.errors import UserError
from lightsleeper.nn.matching import token_distances
from lightsleeper.nn.partition import dsp_partition

TARGET_SPEEDUP = 100  # of the batched forward over the plain reference, at the first token count
EQUAL = 1e-5  # largest difference of distances, float32 embeddings: 2e-6 measured at d = 144


@dataclass(frozen=True)
class Settings:
    rows: int = 256
    """Pairs in the batch."""
    frames: int = 50
    """Encoder frames a clip: 2 s at 40 ms."""
    tokens: tuple[int, ...] = (4, 20)
    """Tokens a text, each measured: words of a phrase, phones of a phrase."""
    channels: int = 144
    """Width of the embeddings."""
    repeats: int = 5
    """Timed calls; the median is reported with the smallest and the largest."""
    reference_rows: int = 16
    """Rows on which a reference is timed in each repeat, then scaled to ``rows``."""
    threads: int = 1
    """torch threads. One by default: the references cannot use more."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "frames", "channels", "repeats", "reference_rows", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"bench dsp: {name} must be at least 1, got {getattr(self, name)}.")
        if not self.tokens or not all(1 <= count <= self.frames for count in self.tokens):
            raise UserError(f"bench dsp: tokens must lie in 1..{self.frames} (the frames), got {list(self.tokens)}.")


def run(args: Any = None) -> dict[str, Any]:
    """Measure, print the table, and return the same as JSON-able data.

    ``args``: any object with attributes named as the fields of ``Settings`` (an argparse namespace will do); what is
    missing or None keeps its default. Raises UserError for values out of range.
    """
    given = {f.name: getattr(args, f.name, None) for f in fields(Settings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    if "tokens" in chosen:
        chosen["tokens"] = (chosen["tokens"],) if isinstance(chosen["tokens"], int) else tuple(chosen["tokens"])
    settings = Settings(**chosen)
    with torch_threads(settings.threads):
        result = {
            "settings": asdict(settings) | {"tokens": list(settings.tokens)},
            "conditions": conditions(torch.get_num_threads(), dtype="float32"),
            "exhaustive": compare_exhaustive(settings.seed),
            "tokens": [measure_tokens(settings, count) for count in settings.tokens],
        }
    print(render(result))
    return result


def batched_distance(audio: Tensor, tokens: Tensor, frames: Tensor, counts: Tensor) -> Tensor:
    """Mean distances (B,) as `nn.matching.Head` finds them: the partition without gradient, then its runs with."""
    cuts = dsp_partition(audio.detach(), tokens.detach(), frames, counts)
    return token_distances(audio, tokens, cuts).sum(1) / counts


def plain_reference(audio: Tensor, tokens: Tensor) -> tuple[float, list[int]]:
    """Distance and cuts of one pair (n, d), (m, d): Algorithm 1 of the paper, suffix by suffix, one run at a time."""
    n, m = len(audio), len(tokens)
    sums = torch.cat([audio.new_zeros(1, audio.shape[1]), audio.cumsum(0)])

    def cost(start: int, end: int, token: int) -> float:
        return float(torch.linalg.vector_norm((sums[end] - sums[start]) / (end - start) - tokens[token]))

    best = [[cost(i, n, m - 1) for i in range(n)]]
    step: list[list[int]] = [[n] * n]
    for k in range(2, m + 1):
        best.append([math.inf] * n)
        step.append([n] * n)
        for i in range(n - k + 1):
            for j in range(i + 1, n - k + 2):
                total = cost(i, j, m - k) + best[k - 2][j]
                if total < best[k - 1][i]:
                    best[k - 1][i], step[k - 1][i] = total, j
    return best[m - 1][0] / m, _walk(step, m)


def inner_reference(audio: Tensor, tokens: Tensor) -> tuple[float, list[int]]:
    """`plain_reference` with all ends j of a run at once."""
    n, m = len(audio), len(tokens)
    sums = torch.cat([audio.new_zeros(1, audio.shape[1]), audio.cumsum(0)])
    length = torch.arange(1, n + 1, dtype=audio.dtype)[:, None]

    def costs(start: int, first: int, last: int, token: int) -> Tensor:
        means = (sums[first : last + 1] - sums[start]) / length[first - start - 1 : last - start]
        return torch.linalg.vector_norm(means - tokens[token], dim=1)

    best = torch.stack([costs(i, n, n, m - 1)[0] for i in range(n)])
    step: list[list[int]] = [[n] * n]
    for k in range(2, m + 1):
        row, ends = torch.full((n,), torch.inf, dtype=audio.dtype), [n] * n
        for i in range(n - k + 1):
            least, j = (costs(i, i + 1, n - k + 1, m - k) + best[i + 1 : n - k + 2]).min(0)
            row[i], ends[i] = least, i + 1 + int(j)
        best = row
        step.append(ends)
    return float(best[0]) / m, _walk(step, m)


def exhaustive(audio: Tensor, tokens: Tensor) -> float:
    """The least distance over all C(n-1, m-1) partitions of one pair."""
    n, m = len(audio), len(tokens)
    return min(
        float(measure_cuts(audio, tokens, [0, *inner, n])) for inner in itertools.combinations(range(1, n), m - 1)
    )


def measure_cuts(audio: Tensor, tokens: Tensor, cuts: list[int]) -> Tensor:
    """Mean distance of one pair under given cuts, with gradient."""
    means = torch.stack([audio[start:end].mean(0) for start, end in itertools.pairwise(cuts)])
    return torch.linalg.vector_norm(means - tokens, dim=1).mean()


def compare_exhaustive(seed: int, cases: int = 60) -> dict[str, Any]:
    """Largest difference between the batched distance and the exhaustive search, small pairs padded into one batch."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(1, 10, (cases,), generator=generator)
    counts = torch.minimum(torch.randint(1, 6, (cases,), generator=generator), frames)
    audio, tokens = torch.randn(cases, 9, 8, generator=generator), torch.randn(cases, 5, 8, generator=generator)
    z = batched_distance(audio, tokens, frames, counts)
    expected = [exhaustive(audio[b, : frames[b]], tokens[b, : counts[b]]) for b in range(cases)]
    return {"cases": cases, "max_difference": float((z - torch.tensor(expected)).abs().max())}


def measure_tokens(settings: Settings, count: int) -> dict[str, Any]:
    """All figures of one token count."""
    rows, frames = settings.rows, settings.frames
    generator = torch.Generator().manual_seed(settings.seed)
    audio = torch.randn(rows, frames, settings.channels, generator=generator, requires_grad=True)
    tokens = torch.randn(rows, count, settings.channels, generator=generator, requires_grad=True)
    lengths = torch.full((rows,), frames), torch.full((rows,), count)
    few = range(min(settings.reference_rows, rows))

    def batched(backward: bool, part: slice = slice(None)) -> Tensor:
        with torch.set_grad_enabled(backward):
            z = batched_distance(audio[part], tokens[part], lengths[0][part], lengths[1][part])
            if backward:
                z.sum().backward()
                audio.grad = tokens.grad = None
        return z.detach()

    def looped(reference: Callable[[Tensor, Tensor], tuple[float, list[int]]], backward: bool) -> list[float]:
        found = []
        for b in few:
            z, cuts = reference(audio[b].detach(), tokens[b].detach())
            found.append(z)
            if backward:
                measure_cuts(audio[b], tokens[b], cuts).backward()
        audio.grad = tokens.grad = None
        return found

    expected = torch.tensor([plain_reference(audio[b].detach().double(), tokens[b].detach().double())[0] for b in few])
    scale = rows / len(few)
    result: dict[str, Any] = {
        "count": count,
        "max_difference": float((batched(False)[: len(few)] - expected).abs().max()),
        "peak_bytes": {name: peak_bytes(partial(batched, b)) for name, b in _PASSES},
        "full_tensor_bytes": rows * frames * frames * settings.channels * 4,
        "one_pair_ms": timed(partial(batched, False, slice(0, 1)), settings.repeats * 4),
    }
    for name, backward in _PASSES:
        row: dict[str, Any] = {
            "batched_ms": timed(partial(batched, backward), settings.repeats),
            "plain_ms": timed(partial(looped, plain_reference, backward), settings.repeats, scale),
            "inner_ms": timed(partial(looped, inner_reference, backward), settings.repeats, scale),
        }
        for reference in ("plain", "inner"):
            row[f"speedup_{reference}"] = row[f"{reference}_ms"]["median"] / row["batched_ms"]["median"]
        result[name] = row
    return result


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes of torch tensors alive at once that ``call`` adds, from torch's own allocation events."""
    # Read when the profiler is first imported; without it, it writes its own start and stop on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max([0, *alive])


def render(result: dict[str, Any]) -> str:
    """The table, conditions first."""
    settings, conditions = result["settings"], result["conditions"]
    lines = [
        f"DSP: B={settings['rows']} N={settings['frames']} d={settings['channels']} float32, "
        f"{conditions['threads']} threads, torch {conditions['torch']}, Python {conditions['python']}, "
        f"{conditions['machine']}; median (min-max) of {settings['repeats']} calls after a warm-up; references on "
        f"{min(settings['reference_rows'], settings['rows'])} rows, scaled to {settings['rows']}",
        f"exhaustive search: largest difference {result['exhaustive']['max_difference']:.1e} "
        f"over {result['exhaustive']['cases']} pairs",
        "",
        f"{'':22}{'batched ms':>24}{'three loops ms':>28}{'speed-up':>10}{'two loops ms':>28}{'speed-up':>10}"
        f"{'peak MiB':>10}",
    ]
    for row in result["tokens"]:
        for name, _ in _PASSES:
            timed = row[name]
            lines.append(
                f"M={row['count']:<3} {name.replace('_', ' '):<16}{_range(timed['batched_ms']):>24}"
                f"{_range(timed['plain_ms']):>28}{timed['speedup_plain']:>9.0f}x"
                f"{_range(timed['inner_ms']):>28}{timed['speedup_inner']:>9.0f}x"
                f"{row['peak_bytes'][name] / 2**20:>10.0f}"
            )
        lines.append(
            f"M={row['count']:<3} one pair {_range(row['one_pair_ms'])} ms; largest difference from the reference in "
            f"float64 {row['max_difference']:.1e}; a B x N x N x d tensor would take "
            f"{row['full_tensor_bytes'] / 2**20:.0f} MiB"
        )
    first = result["tokens"][0]
    reached = first["forward"]["speedup_plain"] >= TARGET_SPEEDUP
    equal = max(row["max_difference"] for row in [*result["tokens"], result["exhaustive"]]) <= EQUAL
    lines += [
        "",
        f"target {TARGET_SPEEDUP}x at M={first['count']}: {'reached' if reached else 'MISSED'}; "
        f"equal to {EQUAL:.0e}: {'yes' if equal else 'NO'}",
    ]
    return "\n".join(lines)


_PASSES = (("forward", False), ("forward_backward", True))


def _walk(step: list[list[int]], m: int) -> list[int]:
    """Cut points from the best end of the run that starts at each frame, by number of runs left."""
    cuts = [0]
    for k in range(m, 0, -1):
        cuts.append(step[k - 1][cuts[-1]])
    return cuts


def _range(times: dict[str, float]) -> str:
    return shown(times, 1, ("min", "max"))
