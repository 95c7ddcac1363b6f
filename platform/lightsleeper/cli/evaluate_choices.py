"""`lightning evaluate --against`: two language models on the same multiple-choice items, paired."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from lightsleeper.metrics.measurement import Measurement

Outcomes = Mapping[str, Sequence[int]]
"""What `metrics.choices.ChoiceMetrics.details` tells: answers, chosen and groups by item."""


def check(path: Path, source: str) -> None:
    """Refuse what `locate` found for ``source`` unless it is a language model. Raises UserError."""
    from lightsleeper.deploy.finalize import model_class, read_description
    from lightsleeper.models.causal_lm import CausalLM

    if path.suffix == ".onnx" or not issubclass(model_class(read_description(path)["class_path"]), CausalLM):
        raise UserError(f"--against is for runs of a CausalLM, which answer multiple choice; {source} is none.")


def compared_with(file: str, name: str, mine: Outcomes) -> "dict[str, Measurement]":
    """How much more often this model is right than the one in ``file``, and McNemar's p.

    ``file`` is what ``--json`` wrote, or the ``test.json`` of a run. Raises UserError where it was not asked the same.
    """
    other = _outcomes(file, name)
    if any(list(other[key]) != list(mine[key]) for key in ("answers", "groups")):
        raise UserError(f"--against {file}: the other model was asked other items.")
    import torch

    from lightsleeper.metrics.choices import compared

    answers = torch.tensor(mine["answers"])
    hits, others = (torch.tensor(told["chosen"]) == answers for told in (mine, other))
    difference, p = compared(hits, others, torch.tensor(mine["groups"]))
    return {"gain_over_other": difference, "mcnemar_other": p}


def _outcomes(file: str, name: str) -> Outcomes:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        told = content.get("details", content)[name]
        return {key: told[key] for key in ("answers", "chosen", "groups")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--against {file}: no outcomes of multiple choice, as `evaluate --json` writes them."
        ) from error
