"""What the files of `lightning bench lm` say: bytes beside perplexity, and paired differences."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightsleeper.metrics.choices import compared, mean
from lightsleeper.metrics.language import paired, quotients

PAIRS = (
    ("round_tensor", "original"),
    ("round_channel", "original"),
    ("round_group", "original"),
    ("kmeans", "original"),
    ("kmeans", "round_channel"),
    ("kmeans_group", "round_channel"),
    ("edkm", "tuned"),
    ("edkm", "kmeans"),
    ("edkm", "tuned_kmeans"),
    ("edkm", "tuned_round"),
    ("edkm_group", "edkm"),
    ("edkm_group", "kmeans_group"),
    ("edkm_group", "tuned_round"),
    ("pdp", "tuned"),
    ("2of4", "tuned"),
    ("pdp_edkm", "edkm"),
)
"""The first against the second, over the same documents."""


def summarize(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Perplexity and bits per byte of each, with intervals, and the differences of PAIRS."""
    sums = {name: torch.tensor(row["documents"], dtype=torch.double) for name, row in arms.items()}
    quality = {
        name: {key: found.to_dict() for key, found in quotients(values).items()} for name, values in sums.items()
    }
    for name, row in arms.items():
        if "choices" in row:
            right, groups = _right(row)
            quality[name]["accuracy"] = mean(right, groups).to_dict()
    pairs = [_pair(first, second, arms, sums) for first, second in PAIRS if first in sums and second in sums]
    return {"quality": quality, "pairs": pairs}


def _pair(first: str, second: str, arms: Mapping[str, Any], sums: Mapping[str, Tensor]) -> dict[str, Any]:
    found = {"first": first, "second": second, **paired(sums[first], sums[second]).to_dict()}
    if "choices" in arms[first] and "choices" in arms[second]:
        (right, groups), (other, _) = _right(arms[first]), _right(arms[second])
        difference, p = compared(right, other, groups)
        found["accuracy"] = {**difference.to_dict(), "mcnemar": p.value}
    return found


def _right(row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Right or wrong (n,) of each item, and its group."""
    choices = row["choices"]
    return torch.tensor(choices["chosen"]) == torch.tensor(choices["answers"]), torch.tensor(choices["groups"])


def render(result: Mapping[str, Any]) -> str:
    """The table, conditions first."""
    model, settings, conditions = result["model"], result["settings"], result["conditions"]
    source = "" if model["source_bytes"] is None else f" from a file of {model['source_bytes'] / 1e6:.1f} MB"
    lines = [
        f"lm: {model['source']}, {model['sizes']}, {model['parameters'] / 1e6:.2f} M weights{source}; "
        f"{settings['steps']} steps of {settings['batch']} x {settings['context']} tokens, rate {settings['rate']:g}; "
        f"test: {model['documents']} documents, {model['tokens']} tokens; "
        + ", ".join(f"{name} {value}" for name, value in conditions.items()),
        "3 bits a weight, the embedding at 8; bits with scales, tables and what is not compressed; [95 % interval over "
        "documents]",
        "",
        f"{'':34}{'MB':>9}{'gzipped':>9}{'bits':>7}{'zeros':>7}{'bits per byte':>24}{'perplexity':>32}"
        f"{'choices right':>24}{'s/step':>8}",
    ]
    for name, row in result["arms"].items():
        quality = result["summary"]["quality"][name]
        step = "" if row["step_s"] is None else f"{row['step_s']:.2f}"
        lines.append(
            f"{row['label']:34}{row['bytes'] / 1e6:>9.2f}{row['gzip_bytes'] / 1e6:>9.2f}{row['bits']:>7.2f}"
            f"{100 * row['zeros']:>6.0f}%{_text(quality['bits_per_byte']):>24}{_text(quality['perplexity']):>32}"
            f"{_text(quality['accuracy']) if 'accuracy' in quality else '':>24}{step:>8}"
        )
    for name, value in next((row["baselines"] for row in result["arms"].values() if "baselines" in row), {}).items():
        lines.append(f"without reading the text, by {name}: {value:.3f} of the choices right")
    labels = {name: row["label"] for name, row in result["arms"].items()}
    lines += ["", "bits per byte, difference over the same documents (below 0 the first is better); choices right:"]
    for pair in result["summary"]["pairs"]:
        choices = f"; {_signed(pair['accuracy'])}, p {pair['accuracy']['mcnemar']:.2g}" if "accuracy" in pair else ""
        lines.append(f"  {labels[pair['first']]} against {labels[pair['second']]}: {_signed(pair)}{choices}")
    return "\n".join(lines)


def _text(found: Mapping[str, Any]) -> str:
    value = _number(found["value"])
    return value if found.get("low") is None else f"{value} [{_number(found['low'])}, {_number(found['high'])}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 1000 else f"{value:.3g}"


def _signed(found: Mapping[str, Any]) -> str:
    if found.get("low") is None:
        return f"{found['value']:+.3f}"
    word = "" if found["low"] <= 0 <= found["high"] else ", clear"
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]{word}"
