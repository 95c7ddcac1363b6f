"""AVA-ActiveSpeaker's CSV files: labels of faces, and scores of them.

Columns in the official order, or in any order under a header as TalkNet writes them: video_id, frame_timestamp,
entity_box_x1, entity_box_y1, entity_box_x2, entity_box_y2 (shares of the picture), label, entity_id, and score in
predictions. Further columns (label_id, instance_id) are ignored.

Predictions are judged by the rules of the official script: every row of the ground truth exactly once, with the same
box, all of them labelled SPEAKING_AUDIBLE, each with a score. Beyond it, the video must be the same too: the script
compares only time and entity, whose name holds the video in AVA.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data.track_source import Track
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import replacing
from lightsleeper.metrics.active_speaker import LABELS, SPEAKING

BOX = ("entity_box_x1", "entity_box_y1", "entity_box_x2", "entity_box_y2")
COLUMNS = ("video_id", "frame_timestamp", *BOX, "label", "entity_id")
SCORE = "score"
_TOLERANCE = 1e-9  # of boxes, the official script's
_NAMED = 3  # rows that an error names


@dataclass(frozen=True)
class Rows:
    """Faces in frames, (n,) each."""

    path: Path
    video: NDArray[np.str_]
    timestamp: NDArray[np.float64]
    """Seconds."""
    box: NDArray[np.float64]
    """(n, 4) left, top, right, bottom as shares of the picture."""
    label: NDArray[np.int64]
    """In the numbers of `metrics.active_speaker.LABELS`; -1 where a file has no labels."""
    entity: NDArray[np.str_]
    score: NDArray[np.float64] | None
    line: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def identities(self) -> list[tuple[str, float, str]]:
        """What tells one row from all others."""
        return list(zip(self.video.tolist(), self.timestamp.tolist(), self.entity.tolist(), strict=True))

    def faces_in_frame(self) -> NDArray[np.int64]:
        """(n,) rows of the same video and time, this one included."""
        _, video = np.unique(self.video, return_inverse=True)
        _, frame, counts = np.unique(
            np.stack([video.astype(np.float64), self.timestamp]), axis=1, return_inverse=True, return_counts=True
        )
        return counts[frame.reshape(-1)]


def read_rows(path: Path, score: bool = False, labels: bool = True) -> Rows:
    """The rows of a file, or of all CSV files of a folder one after the other.

    ``score``: they must have one; ``labels`` False: a file of boxes alone will do.

    Raises:
        UserError: a file cannot be read, lacks a column, or holds a value that is none.
    """
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if not files:
            raise UserError(f"{path} holds no CSV file.")
        return _joined(path, [read_rows(file, score, labels) for file in files])
    table, first = _table(path, score)
    wanted = [name for name in COLUMNS if labels or name != "label"]
    for name in (*wanted, *([SCORE] if score else [])):
        if name not in table.column_names:
            raise UserError(f"{path}: no column '{name}'.{did_you_mean(name, table.column_names)}")
    line = np.arange(first, first + len(table))
    numbers = {name: _numbers(path, table, name, line) for name in ("frame_timestamp", *BOX)}
    return Rows(
        path=path,
        video=_texts(table, "video_id"),
        timestamp=numbers["frame_timestamp"],
        box=np.stack([numbers[name] for name in BOX], 1),
        label=_labels(path, table, line) if "label" in table.column_names else np.full(len(table), -1),
        entity=_texts(table, "entity_id"),
        score=_numbers(path, table, SCORE, line) if score else None,
        line=line,
    )


def scores_of(predictions: Rows, truth: Rows) -> NDArray[np.float64]:
    """The score of each row of ``truth`` (n,), by the official rules.

    Raises:
        UserError: rows that are missing, too many, twice, of another box or another label: all kinds in one error.
    """
    assert predictions.score is not None
    place = {key: row for row, key in enumerate(truth.identities())}
    if len(place) < len(truth):
        raise UserError(f"{truth.path}: {_named(truth, _repeated(truth))} more than once.")
    found = np.array([place.get(key, -1) for key in predictions.identities()], np.int64)
    faults = []
    if len(missing := np.setdiff1d(np.arange(len(truth)), found)):
        faults.append(f"lacks {_named(truth, missing)}")
    if len(strange := np.flatnonzero(found < 0)):
        faults.append(f"has {_named(predictions, strange)} that the ground truth has not")
    if len(again := _repeated(predictions)):
        faults.append(f"has {_named(predictions, again)} more than once")
    known = np.flatnonzero(found >= 0)
    moved = np.abs(predictions.box[known] - truth.box[found[known]]).max(1, initial=0) > _TOLERANCE
    if moved.any():
        faults.append(f"has another box for {_named(predictions, known[moved])}")
    if len(other := np.flatnonzero(predictions.label != SPEAKING)):
        faults.append(f"must say {LABELS[SPEAKING]} in every row, and does not for {_named(predictions, other)}")
    if faults:
        raise UserError(f"{predictions.path} does not fit {truth.path}: it {'; it '.join(faults)}.")
    scores = np.empty(len(truth))
    scores[found] = predictions.score
    return scores


def write_predictions(path: Path, rows: Rows, scores: Sequence[float] | NDArray) -> None:
    """A file that the official script, and `lightning evaluate`, take: the rows with a score each, without header."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for video, time, box, entity, score in zip(
            rows.video, rows.timestamp, rows.box, rows.entity, scores, strict=True
        ):
            corners = (repr(float(value)) for value in box)
            writer.writerow([video, repr(float(time)), *corners, LABELS[SPEAKING], entity, repr(float(score))])


def rows_of(tracks: Sequence[Track], path: Path) -> Rows:
    """The frames of ``tracks`` as rows of a file ``path`` that is to be written, track after track."""
    counts = [len(track.label3) for track in tracks]
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    return Rows(
        path=path,
        video=np.repeat([track.video for track in tracks], counts),
        timestamp=np.concatenate([track.timestamps for track in tracks]),
        box=np.concatenate(
            [np.tile(whole, (n, 1)) if t.box is None else t.box for t, n in zip(tracks, counts, strict=True)]
        ),
        label=np.concatenate([track.label3 for track in tracks]),
        entity=np.repeat([track.entity for track in tracks], counts),
        score=None,
        line=np.arange(1, sum(counts) + 1),
    )


def write_boxes(path: Path, rows: Rows) -> None:
    """A file of boxes without labels, under a header."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([name for name in COLUMNS if name != "label"])
        for video, time, box, entity in zip(rows.video, rows.timestamp, rows.box, rows.entity, strict=True):
            writer.writerow([video, repr(float(time)), *(f"{value:.6f}" for value in box), entity])


def _table(path: Path, score: bool) -> tuple[pa.Table, int]:
    """All values as texts, and the line number of the first row."""
    from pyarrow.csv import ConvertOptions, ReadOptions, read_csv

    if not path.is_file():
        raise UserError(f"{path}: no such CSV file.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = [value.strip() for value in file.readline().split(",")]
        header = bool(set(first) & set(COLUMNS))
        names = first if header else [*COLUMNS, *([SCORE] if score else [])]
        names += [f"column {number + 1}" for number in range(len(names), len(first))]
        if len(first) < len(names):
            raise UserError(f"{path}: expected {len(names)} columns ({', '.join(names)}), found {len(first)}.")
        table = read_csv(
            path,
            read_options=ReadOptions(column_names=names, skip_rows=int(header)),
            convert_options=ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is no CSV file of faces: {' '.join(str(error).split())}") from None
    if not len(table):
        raise UserError(f"{path} holds no row.")
    return table, 1 + int(header)


def _texts(table: pa.Table, name: str) -> NDArray[np.str_]:
    return table.column(name).to_numpy().astype(str)


def _numbers(path: Path, table: pa.Table, name: str, line: NDArray) -> NDArray[np.float64]:
    try:
        found = table.column(name).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:  # which one, and whether Python reads it, is asked only then
        texts = table.column(name).to_pylist()
        found = np.array([float(text) if _is_number(text) else np.nan for text in texts])
    if len(bad := np.flatnonzero(~np.isfinite(found))):
        wrong = table.column(name)[int(bad[0])].as_py()
        raise UserError(f"{path} line {line[bad[0]]}: {name} is '{wrong}', expected a number.")
    return found


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _labels(path: Path, table: pa.Table, line: NDArray) -> NDArray[np.int64]:
    number = {name: i for i, name in enumerate(LABELS)}
    texts = table.column("label").to_pylist()
    found = np.array([number.get(text, -1) for text in texts], np.int64)
    if len(bad := np.flatnonzero(found < 0)):
        wrong = texts[bad[0]]
        raise UserError(f"{path} line {line[bad[0]]}: label '{wrong}' is none of {', '.join(LABELS)}."
                        f"{did_you_mean(wrong, LABELS)}")  # fmt: skip
    return found


def _repeated(rows: Rows) -> NDArray[np.int64]:
    """Rows that have come before."""
    seen: set[tuple[str, float, str]] = set()
    found = []
    for row, key in enumerate(rows.identities()):
        if key in seen:
            found.append(row)
        seen.add(key)
    return np.array(found, np.int64)


def _named(rows: Rows, which: NDArray[np.int64]) -> str:
    """How many, and the first few by line, time and entity."""
    some = [
        f"line {rows.line[i]}: {rows.entity[i]} of {rows.video[i]} at {rows.timestamp[i]:g} s" for i in which[:_NAMED]
    ]
    more = " ..." if len(which) > _NAMED else ""
    return f"{len(which)} row{'s' * (len(which) != 1)} ({', '.join(some)}{more})"


def _joined(path: Path, parts: Sequence[Rows]) -> Rows:
    score = None if parts[0].score is None else np.concatenate([part.score for part in parts if part.score is not None])
    video, timestamp, box, label, entity, line = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("video", "timestamp", "box", "label", "entity", "line")
    )
    return Rows(path, video, timestamp, box, label, entity, score, line)
