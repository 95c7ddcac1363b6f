"""Measured splits as a file, and the split of a length that was not measured.

A table is good for one model, type, device, link and software; anything else is refused by name, because a split that
fits another machine still gives right tokens, only late.
"""

import json
import platform
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from lightsleeper.deploy.fingerprint import cpu_model
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash, write_json
from lightsleeper.generation.split import Split, by_ratios, checked, effective_ranks

SCHEMA = 1
NOT_ARCHITECTURE = ("_name_or_path", "dtype", "transformers_version", "architectures", "use_cache")


@dataclass(frozen=True)
class Conditions:
    """What a split depends on besides the length."""

    model: str
    """Type and hash of the config."""
    dtype: str
    device: str
    ranks: int
    threads: int
    backend: str
    link: str
    """The link that was made slower, or as it is."""
    attention: str
    torch: str
    transformers: str


def conditions(
    model: PreTrainedModel, ranks: int, threads: int, backend: str, device: str, link: str, skip_masked: bool = True
) -> Conditions:
    """Those of ranks on this machine."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in NOT_ARCHITECTURE}
    digest = content_hash(json.loads(json.dumps(fields, default=str)), 12)
    return Conditions(
        model=f"{model.config.model_type} {digest}",
        dtype=str(model.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {cpu_model()}",
        ranks=ranks,
        threads=threads,
        backend=backend,
        link=link,
        attention=f"{model.config._attn_implementation}{', masked half skipped' if skip_masked else ''}",
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


@dataclass
class SplitTable:
    """The best splits found, by length of the prompt."""

    conditions: Conditions
    entries: dict[int, Split] = field(default_factory=dict)
    """Tokens of the prompt to the split."""
    seconds: dict[int, float] = field(default_factory=dict)
    """Time to first token of each entry."""

    def add(self, split: Split, seconds: float) -> None:
        self.entries[sum(split)] = split
        self.seconds[sum(split)] = seconds

    def predict(self, tokens: int) -> Split:
        """The split for ``tokens``: shares linear between the two nearest entries, those of the nearest outside.

        A prompt with fewer tokens than ranks gets a piece of one token for each. Raises UserError for an empty table.
        """
        if not self.entries:
            raise UserError("the table of splits is empty: search at least one length first.")
        ranks = effective_ranks(tokens, self.conditions.ranks)
        lengths = sorted(length for length, split in self.entries.items() if len(split) == ranks)
        if not lengths:  # fewer tokens than ranks, or entries of such prompts only
            return by_ratios([1.0] * ranks, tokens)
        place = bisect_left(lengths, tokens)
        low, high = lengths[max(place - 1, 0)], lengths[min(place, len(lengths) - 1)]
        if place < len(lengths) and lengths[place] == tokens:
            return self.entries[tokens]
        weight = 0.0 if low == high else (tokens - low) / (high - low)
        pairs = zip(self.entries[low], self.entries[high], strict=True)
        return by_ratios([(1 - weight) * a / low + weight * b / high for a, b in pairs], tokens)

    def save(self, path: Path) -> None:
        """Write JSON. Raises UserError where it cannot be written."""
        rows = [
            {"tokens": tokens, "split": list(split), "seconds": self.seconds.get(tokens)}
            for tokens, split in sorted(self.entries.items())
        ]
        write_json(path, {"schema": SCHEMA, "conditions": asdict(self.conditions), "splits": rows}, indent=1)


def load(path: Path, expected: Conditions) -> SplitTable:
    """The table of ``path``. Raises UserError: unreadable, or made under other conditions, which are named."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = Conditions(**content["conditions"])
        table = SplitTable(found)
        for row in content["splits"]:
            tokens, split = int(row["tokens"]), tuple(int(piece) for piece in row["split"])
            table.entries[tokens] = checked(split, tokens, found.ranks)
            if row.get("seconds") is not None:
                table.seconds[tokens] = float(row["seconds"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a table of splits: {error}.") from error
    refuse_mismatch(path, asdict(found), asdict(expected))
    return table


def refuse_mismatch(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UserError that names every condition which differs."""
    others = [f"{name} is '{expected[name]}', the table's '{value}'" for name, value in found.items()
              if expected[name] != value]  # fmt: skip
    if others:
        raise UserError(f"{path} was made under other conditions: {'; '.join(others)}. Search again.")
