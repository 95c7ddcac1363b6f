"""Proof that an exported file computes what the torch module computes: same inputs, largest difference.

Floating-point outputs must agree within TOLERANCE. Integer outputs are places of a minimum (the cuts of a partition):
where two places are as good as each other, rounding decides between them, so a small share of inputs may differ there,
and with the cuts what is read from them: a score that is no plain sum over runs is another one for another partition.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.models.family import Batch, ExportGraph

TOLERANCE = 1e-4
"""Largest difference of float32 outputs, as a share of the value where that exceeds one. Kernels of two runtimes sum
in different orders; a conformer over 100 frames was measured at 1e-6 to 1e-5, and a wrong mask or axis shows as 1e-2
or more."""
TIED_SHARE = 0.1
"""Share of inputs whose integer outputs may differ, and whose others are then not compared; a wrong export differs on
nearly all."""

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class ParityError(UserError):
    """An exported file does not compute what the trained model computes."""


@torch.inference_mode()
def torch_outputs(graph: ExportGraph, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Run the torch module of a graph; outputs by name."""
    outputs = graph.module(*inputs.values())
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    if len(outputs) != len(graph.outputs):
        raise UserError(f"graph '{graph.name}' names {len(graph.outputs)} outputs, its module returns {len(outputs)}.")
    return {name: value.numpy() for name, value in zip(graph.outputs, outputs, strict=True)}


def largest_difference(expected: np.ndarray, actual: np.ndarray, relative: bool = False) -> float:
    """Largest absolute difference; infinite for other shapes, and where only one of two values is NaN or infinite.

    ``relative`` measures values beyond one as shares of themselves: float32 has no more digits for them.
    """
    if expected.shape != actual.shape:
        return math.inf
    if expected.size == 0:
        return 0.0
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities are equal; their difference would be NaN
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
        if relative:
            difference = np.where(np.isfinite(a), difference / np.maximum(1.0, np.abs(a)), difference)
    return float(np.where(np.isnan(difference), math.inf, difference).max())


def prove(graph: ExportGraph, run: Runner, inputs: int = 64, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Compare ``run`` (the exported file) with the module of ``graph`` on the samples of seeds 0 to ``inputs`` - 1.

    Returns the record's parity entry. Raises ParityError with the graph, output and seed of the largest difference.
    """
    worst, ties, absolute = (0.0, "", 0), 0, 0.0
    for seed in range(inputs):
        sample = graph.sample(seed)
        expected = torch_outputs(graph, sample)
        actual = run({name: value.numpy() for name, value in sample.items()})
        relative = {name: largest_difference(value, actual[name], relative=True) for name, value in expected.items()}
        places = {name for name, value in expected.items() if not np.issubdtype(value.dtype, np.floating)}
        tied = any(relative[name] > 0 for name in places)
        ties += tied
        for name, difference in relative.items():
            if math.isinf(difference) or not (tied or name in places):
                worst = max(worst, (difference, name, seed))
                absolute = max(absolute, largest_difference(expected[name], actual[name]))
    if not worst[0] <= tolerance:
        raise ParityError(
            f"graph '{graph.name}': the exported file differs from the model by {worst[0]:.3g} "
            f"(output '{worst[1]}', seed {worst[2]}); at most {tolerance:g} is accepted."
        )
    if ties > max(1, math.ceil(TIED_SHARE * inputs)):
        raise ParityError(f"graph '{graph.name}': integer outputs differ on {ties} of {inputs} inputs.")
    differences = {"max_abs_diff": absolute, "max_scaled_diff": worst[0]}
    return {**differences, "inputs": inputs, "tolerance": tolerance, "integer_mismatches": ties}


def compare_scores(
    expected: Callable[[Batch], dict[str, Tensor]],
    actual: Callable[[Batch], dict[str, Tensor]],
    batches: Iterable[Batch],
) -> dict[str, Any]:
    """Score the same evaluation batches twice; ``{"rows": n, "max_abs_diff": {scorer: difference}}``.

    Call as ``compare_scores(model.score, OnnxModel(path).score, batches)``; judges nothing.
    """
    rows, worst = 0, dict[str, float]()
    for batch in batches:
        first, second = expected(batch), actual(batch)
        for name in first.keys() & second.keys():
            difference = largest_difference(first[name].detach().cpu().numpy(), second[name].cpu().numpy())
            worst[name] = max(worst.get(name, 0.0), difference)
        rows += len(batch["audio_lengths"])
    return {"rows": rows, "max_abs_diff": worst}
