"""Which class each row of a table has, and which part it belongs to."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.documents import PARTS
from lightsleeper.data.hub_data import need_column
from lightsleeper.errors import UserError

Labels = NDArray[np.int64]


def hash_of(*values: Any) -> str:
    return hashlib.sha256("\0".join(str(value) for value in values).encode()).hexdigest()


def read_labels(tables: Mapping[str, Any], column: str, source: str) -> tuple[list[str], dict[str, Labels]]:
    """Names of the classes, and by part the class of every row, -1 where it has none.

    Raises UserError for a missing column and for fewer than two classes.
    """
    for table in tables.values():
        need_column(table, column, source)
    values = {part: table[column] for part, table in tables.items()}
    names = list(getattr(tables["train"].features[column], "names", None) or ())
    if names:
        labels = {
            part: np.array([-1 if v is None else v for v in column_], np.int64) for part, column_ in values.items()
        }
    else:
        names = sorted({str(value) for column_ in values.values() for value in column_ if value is not None})
        number = {name: index for index, name in enumerate(names)}
        labels = {part: np.array([-1 if v is None else number[str(v)] for v in column_], np.int64)
                  for part, column_ in values.items()}  # fmt: skip
    if len(names) < 2:
        raise UserError(f"{source}: column '{column}' holds {len(names)} class, at least two are needed.")
    return names, labels


def parts_of(
    keys: Mapping[str, Sequence[str]], labels: Mapping[str, Labels], val_fraction: float, test_fraction: float
) -> dict[str, tuple[str, Labels]]:
    """By part the table and its rows: those of its own split, else a share of ``train`` by key. Rows have labels.

    Equal keys of ``train`` stay together, first in the test, then in validation. Raises UserError for an empty part.
    """
    own = {part: np.flatnonzero(labels[part] >= 0) for part in keys}
    chosen = {part: (part, rows) for part, rows in own.items() if len(rows)}
    if "train" in chosen:
        by_key: dict[str, list[int]] = {}
        for row in own["train"].tolist():
            by_key.setdefault(keys["train"][row], []).append(row)
        ordered = sorted(by_key)
        for part, fraction in (("test", test_fraction), ("val", val_fraction)):
            if part not in chosen:
                count = max(round(len(by_key) * fraction), 1)
                chosen[part] = ("train", _rows(by_key, ordered[:count]))
                ordered = ordered[count:]
        chosen["train"] = ("train", _rows(by_key, ordered))
    for part in PARTS:
        if part not in chosen or not len(chosen[part][1]):
            raise UserError("there are too few rows with a label for training, validation and test.")
    return {part: chosen[part] for part in PARTS}


def _rows(by_key: Mapping[str, list[int]], keys: Sequence[str]) -> Labels:
    return np.array(sorted(row for key in keys for row in by_key[key]), np.int64)
