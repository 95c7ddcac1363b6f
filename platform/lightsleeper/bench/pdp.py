"""`lightning bench pdp`: what pruning costs a training step, and what it costs in accuracy.

Part ``step``: a dense training step and one under each mode, in turns, on a residual CNN and on a transformer; the
callback is in the middle of its ramp, so thresholds move. Part ``accuracy``: see ``pdp_accuracy``.
"""

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightsleeper_callbacks import masks
from lightsleeper_callbacks.base import Compression
from lightsleeper_callbacks.magnitude import MagnitudePruning
from lightsleeper_callbacks.pdp import PDPMasking
from torch import Tensor

from lightsleeper.bench import pdp_accuracy
from lightsleeper.bench.conditions import chosen_parts, conditions, torch_threads
from lightsleeper.bench.pdp_nets import ByteLM, ResidualCNN, Trained
from lightsleeper.bench.timing import in_turns
from lightsleeper.deploy.benchmark import machine_lock

PARTS = ("step", "accuracy")
TARGET = 0.05  # overhead of a step at the larger batch
EQUAL = 1e-6  # float64 against autograd
CASES = (("cnn", 128, 4), ("cnn", 8, 20), ("transformer", 32, 1))  # network, batch, steps a repeat
MODES: dict[str, Callable[[], Compression]] = {
    "unstructured 80 %": lambda: PDPMasking(sparsity=0.8),
    "2:4": lambda: PDPMasking(mode="n:m", pattern="2:4"),
    "channel 50 %": lambda: PDPMasking(sparsity=0.5, mode="channel"),
    "magnitude 80 %": lambda: MagnitudePruning(sparsity=0.8),
}


def run(args: Any) -> dict[str, Any]:
    """Measure the parts in ``args.part`` (default all), print the tables and return all numbers.

    Raises UserError for an unknown part.
    """
    chosen = chosen_parts("pdp", args.part, PARTS)
    with torch_threads(args.threads or torch.get_num_threads()):
        result: dict[str, Any] = {"conditions": conditions(torch.get_num_threads(), dtype="float32")}
        print("PDP: " + ", ".join(f"{name} {value}" for name, value in result["conditions"].items()))
        if "step" in chosen:
            result["equality"] = equality()
            with machine_lock():
                result["step"] = step(args.repeats or (3 if args.quick else 15), args.quick)
            print(render_step(result))
        if "accuracy" in chosen:
            folder = None if args.out is None else Path(args.out)
            result["accuracy"] = pdp_accuracy.run(folder, digits_folder(), 1 if args.quick else args.seeds, args.quick)
            print(pdp_accuracy.render(result["accuracy"]))
    return result


def digits_folder() -> Path | None:
    """Where the recordings of spoken digits lie; None, with a line, where there are none."""
    folder = Path(os.environ.get("LIGHTSLEEPER_REAL_DATA", "")) / "spoken_digits"
    if (folder / "manifest.csv").is_file():
        return folder
    print("no spoken digits: LIGHTSLEEPER_REAL_DATA names no folder with spoken_digits/manifest.csv; task left out")
    return None


def equality() -> dict[str, float]:
    """Largest difference of soft weights and gradients from the same formulas under autograd, float64."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    upstream = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    found = {}
    for name, t in (("unstructured", masks.threshold(weight, 3276)), ("2:4", None)):
        for tau in (None, 1e-4):
            fast, slow = (weight.clone().requires_grad_() for _ in range(2))
            if t is None:
                groups = masks.to_groups(fast, 4, -1)
                ours = masks.soft_weight(groups.flatten(), masks.group_thresholds(groups, 2), tau, group=4)
                ours = masks.from_groups(ours, weight.shape, -1)
                ordered = weight.abs().view(-1, 4).sort().values
                thresholds = ordered[:, 1:3].mean(1).repeat_interleave(4).view(64, 64)
            else:
                ours, thresholds = masks.soft_weight(fast, t, tau), t
            temperature = masks.RELATIVE_TAU * thresholds**2 if tau is None else torch.full_like(weight, tau)
            pair = torch.stack([(thresholds**2 / temperature).expand(64, 64), slow**2 / temperature])
            reference = pair.softmax(0)[1] * slow  # (3) and (4) as written
            (ours * upstream).sum().backward()
            (reference * upstream).sum().backward()
            assert fast.grad is not None
            assert slow.grad is not None
            key = f"{name}, tau {'relative' if tau is None else tau}"
            pairs = ((ours.detach(), reference.detach()), (fast.grad, slow.grad))
            found[key] = max(float((a - b).abs().max()) for a, b in pairs)
    return found


def step(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Rows of (network, batch, mode): a step in ms, dense and pruned, and the overhead as a share of the dense one."""
    rows = []
    for name, batch, calls in CASES:
        size = batch // 4 if quick and name == "transformer" else batch
        steppers = {mode: _stepper(name, size, make) for mode, make in {"dense": None, **MODES}.items()}
        times = in_turns(steppers, repeats, each=calls)
        for mode in MODES:
            ratios = sorted(pruned / dense - 1 for pruned, dense in zip(times[mode], times["dense"], strict=True))
            rows.append(
                {
                    "network": name,
                    "batch": size,
                    "mode": mode,
                    "dense_ms": statistics.median(times["dense"]),
                    "pruned_ms": statistics.median(times[mode]),
                    "overhead": statistics.median(ratios),
                    "overhead_min": ratios[0],
                    "overhead_max": ratios[-1],
                    "repeats": repeats,
                    "steps_a_repeat": calls,
                }
            )
    return rows


def _stepper(name: str, batch: int, make: Callable[[], Compression] | None) -> Callable[[], None]:
    """A training step as Lightning runs it, callback included."""
    torch.manual_seed(0)
    module: Trained = ResidualCNN() if name == "cnn" else ByteLM()
    inputs: Tensor = torch.randn(batch, 1, 40, 50) if name == "cnn" else torch.randint(256, (batch, 128))
    targets = torch.randint(10, (batch,)) if name == "cnn" else inputs.roll(-1, 1)
    callback = None if make is None else make()
    if callback is not None:
        callback.prepare_once(module)
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
    middle = 0.5

    def call() -> None:
        nonlocal middle
        if callback is not None:
            middle += 1e-5
            callback.step(module, middle)
        optimizer.zero_grad()
        logits = module(inputs)
        F.cross_entropy(logits.flatten(0, -2), targets.flatten()).backward()
        optimizer.step()

    return call


def render_step(result: dict[str, Any]) -> str:
    worst = max(result["equality"].values())
    lines = [
        f"soft weight and gradient against autograd, float64: largest difference {worst:.1e}: "
        f"{'equal' if worst <= EQUAL else 'DIFFERENT'}",
        f"{'network':14}{'batch':>6}  {'mode':20}{'dense ms':>10}{'pruned ms':>11}{'overhead':>10}  spread",
    ]
    for row in result["step"]:
        verdict = "" if row["batch"] not in (32, 128) else "reached" if row["overhead"] <= TARGET else "MISSED"
        lines.append(
            f"{row['network']:14}{row['batch']:>6}  {row['mode']:20}{row['dense_ms']:>10.1f}{row['pruned_ms']:>11.1f}"
            f"{100 * row['overhead']:>9.1f} %"
            f" {100 * row['overhead_min']:.1f}..{100 * row['overhead_max']:.1f} % {verdict}"
        )
    lines.append(
        f"target {100 * TARGET:.0f} % at the larger batch; medians of {result['step'][0]['repeats']} repeats in turns"
    )
    return "\n".join(lines)
