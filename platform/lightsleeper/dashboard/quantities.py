"""What a number of a record is: its label, its unit, whether it is quality or cost, and which way is better.

One table for the page, W&B and the figures. Metrics of users' own families are judged by the words of their names
(`test/my_auc` is a quality, higher is better); where no word tells, a sweep's goal or the recipe's monitor does, and
else the direction is unknown and the reader chooses.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["quality", "cost", "context", "compression", "time"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Quantity:
    """One axis."""

    label: str
    unit: str = ""
    """SI or `B`; empty for fractions and counts."""
    kind: Kind = "quality"
    better: Better | None = None
    """None: unknown; no front is drawn until somebody says."""
    machine: bool = False
    """Depends on the machine: values of different fingerprints are not comparable."""
    log: bool = False
    """Spans orders of magnitude."""


_FIXED = {
    "latency.p50_ms": Quantity("Latency, median", "ms", "cost", "lower", machine=True, log=True),
    "latency.p90_ms": Quantity("Latency, 90th percentile", "ms", "cost", "lower", machine=True, log=True),
    "latency.p99_ms": Quantity("Latency, 99th percentile", "ms", "cost", "lower", machine=True, log=True),
    "latency.rtf": Quantity("Real-time factor", "", "cost", "lower", machine=True, log=True),
    "artifact.bytes": Quantity("Exported file", "B", "cost", "lower", log=True),
    "artifact.gzip_bytes": Quantity("Exported file, gzipped", "B", "cost", "lower", log=True),
    "size.parameters": Quantity("Parameters", "", "cost", "lower", log=True),
    "size.nonzero": Quantity("Non-zero parameters", "", "cost", "lower", log=True),
    "size.macs": Quantity("Multiply-accumulates", "", "cost", "lower", log=True),
    "size.peak_memory_bytes": Quantity("Peak memory", "B", "cost", "lower", machine=True, log=True),
    "context.past_ms": Quantity("Context, past", "ms", "context", "lower"),
    "context.future_ms": Quantity("Context, future", "ms", "context", "lower"),
    "context.past_tokens": Quantity("Context, past", "tokens", "context", "lower"),
    "context.state_bytes": Quantity("State per stream", "B", "context", "lower", log=True),
    "compress.sparsity": Quantity("Sparsity of pruned weights", "", "compression", "higher"),
    "compress.sparsity_model": Quantity("Sparsity of the model", "", "compression", "higher"),
    "compress.bits_per_weight": Quantity("Bits per weight", "bit", "compression", "lower"),
    "compress.bytes": Quantity("Packed weights", "B", "cost", "lower", log=True),
    "compress.share": Quantity("Share of bytes compressed", "", "compression", "higher"),
    "seconds.fit": Quantity("Training time", "s", "time", "lower", machine=True, log=True),
    "seconds.total": Quantity("Time of the whole run", "s", "time", "lower", machine=True, log=True),
}

# The last word that is known decides: `auc_error` would be an error. (words, what they are, better)
_WORDS: list[tuple[str, str, Better]] = [
    ("auc auroc", "AUC", "higher"),
    ("ap", "AP", "higher"),
    ("map", "mAP", "higher"),
    ("accuracy acc", "accuracy", "higher"),
    ("recall tpr", "recall", "higher"),
    ("precision", "precision", "higher"),
    ("f1", "F1", "higher"),
    ("iou", "IoU", "higher"),
    ("mtwv", "MTWV", "higher"),
    ("skipped", "MACs skipped", "higher"),
    ("bleu", "BLEU", "higher"),
    ("gain", "gain", "higher"),
    ("r2 correlation score top1 top5 agreement", "", "higher"),
    ("eer", "EER", "lower"),
    ("frr fnr miss", "FRR", "lower"),
    ("far fpr", "FAR", "lower"),
    ("fah", "false alarms per hour", "lower"),
    ("wer", "WER", "lower"),
    ("per", "PER", "lower"),
    ("cer", "CER", "lower"),
    ("error errors mae mse rmse deviation", "", "lower"),
    ("loss nll entropy", "loss", "lower"),
    ("perplexity ppl", "perplexity", "lower"),
    ("mcnemar", "McNemar's p", "lower"),
    ("delay latency ms us seconds", "", "lower"),
]
_DIRECTION = {word: (name, better) for words, name, better in _WORDS for word in words.split()}
_WHOLE: dict[str, tuple[str, Better]] = {
    "bits_per_byte": ("bits per byte", "lower"),
    "accuracy_per_token": ("accuracy by likelihood per token", "higher"),
    "accuracy_per_byte": ("accuracy by likelihood per byte", "higher"),
    "fa_per_hour": ("false alarms per hour", "lower"),
    "fa_per_second": ("false alarms per second", "lower"),
}
_UNITS = {"ms": "ms", "us": "us", "seconds": "s", "bytes": "B", "bits": "bit", "hz": "Hz"}


def quantity(name: str, goals: Mapping[str, Better] | None = None) -> Quantity:
    """Of a metric by its name. ``goals``: what sweeps and recipes say about names; they win over words.

    >>> quantity("test/unseen_words/auc_hard").label
    'AUC (hard, unseen words)'
    """
    if name in _FIXED:
        return _FIXED[name]
    section, _, rest = name.partition(".")
    if section == "artifact":
        file = rest.removesuffix(".gzip_bytes").removesuffix(".bytes")
        zipped = ", gzipped" if name.endswith("gzip_bytes") else ""
        return Quantity(f"Exported {file}{zipped}", "B", "cost", "lower", log=True)
    if section in ("latency", "size", "context", "compress", "seconds") and "/" not in section:
        kinds: dict[str, Kind] = {"latency": "cost", "size": "cost", "compress": "compression", "seconds": "time"}
        unit = "s" if section == "seconds" else _UNITS.get(re.split(r"[_/]", rest)[-1], "")
        label = f"{'Time of ' if section == 'seconds' else ''}{_spoken(rest)}"
        better: Better | None = None if section == "compress" else "lower"
        return Quantity(_capital(label), unit, kinds.get(section, "context"), better, section in ("latency", "seconds"))
    return _metric(name, goals or {})


def _metric(name: str, goals: Mapping[str, Better]) -> Quantity:
    split, _, path = name.partition("/") if name.startswith(("test/", "val/", "train/")) else ("", "", name)
    test_set, _, last = path.rpartition("/")
    head, at, condition = last.partition("_at_")  # frr_at_1_fah is an frr
    what, better, rest = _known(head)
    parts = [_spoken(rest), f"at {_spoken(condition)}" if at else "", _spoken(test_set)]
    parts.append({"val": "validation", "train": "training"}.get(split, ""))
    detail = ", ".join(filter(None, parts))
    unit = _UNITS.get(head.rpartition("_")[2], "")
    direction = goals.get(name, goals.get(f"val/{path}", better))
    label = f"{_capital(what or name)} ({detail})" if detail else _capital(what or name)
    return Quantity(label, unit, "quality", direction, log=what == "perplexity")


def _known(head: str) -> tuple[str, Better | None, str]:
    """(what it is, which way is better, the words beside it) of a bare metric name."""
    for whole, (label, better) in _WHOLE.items():
        if whole in head:
            return label, better, head.replace(whole, "")
    words = head.split("_")
    for index in reversed(range(len(words))):
        if words[index].lower() in _DIRECTION:
            label, better = _DIRECTION[words[index].lower()]
            if label:
                return label, better, "_".join(words[:index] + words[index + 1 :])
            bare = words[:-1] if words[-1] in _UNITS and len(words) > 1 else words
            return _spoken("_".join(bare)), better, ""
    return _spoken(head), None, ""


def _spoken(name: str) -> str:
    """`w1` is one word, `faces1` one face: suffixes of our own metrics."""
    text = " ".join(part for part in re.split(r"[_/]", name) if part)
    text = re.sub(r"\bfaces(\d+)\b", lambda match: f"{match[1]} face{'' if match[1] == '1' else 's'}", text)
    return re.sub(r" ?\bw(\d+)\b", lambda match: f", {match[1]} word{'' if match[1] == '1' else 's'}", text).strip(", ")


def _capital(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]  # mAP stays mAP
