"""Reading LibriPhrase's CSV files, official or built here, and turning their rows into pairs to test on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightsleeper.data.alignments import recording
from lightsleeper.data.libriphrase_build import COLUMNS, TYPES
from lightsleeper.data.pairs import PairRows, Pairs, expand_p2
from lightsleeper.data.segments import Segments
from lightsleeper.errors import UserError, did_you_mean

Protocol = Literal["P1", "P2"]


@dataclass
class TestRows:
    """The rows of LibriPhrase CSV files, clips numbered."""

    segments: Segments
    anchor: list[int]
    comparison: list[int]
    rows: list[dict[str, str]]

    __test__ = False  # pytest: not a test class

    def pairs(self, protocol: Protocol, bad: Sequence[int] = ()) -> dict[str, Pairs]:
        """Test sets by name. Pairs of one anchor speaker and text depend on each other: they are one episode.

        P1: one set. P2 has other positives for easy and for hard rows, so "" holds the hard rows with the easy rows'
        negatives added, and "lpe" the easy rows whole: quote hard figures from the first, easy ones from the second.
        """
        lost = set(bad)
        keep = [i for i in range(len(self.rows)) if self.anchor[i] not in lost and self.comparison[i] not in lost]
        keys = {(self.rows[i]["anchor_spk"], self.rows[i]["anchor_text"]): 0 for i in keep}
        number = {key: episode for episode, key in enumerate(keys)}
        episodes = [number[self.rows[i]["anchor_spk"], self.rows[i]["anchor_text"]] for i in keep]
        kinds = [TYPES[self.rows[i]["type"]] for i in keep]
        if protocol == "P1":
            collected, seen = PairRows("P1"), set()
            for i, episode, kind in zip(keep, episodes, kinds, strict=True):
                pair = (self.comparison[i], self.rows[i]["anchor_text"], kind, episode)
                if pair not in seen:  # three anchor clips share their positives, and P1 does not hear the anchor
                    seen.add(pair)
                    collected.add(*pair)
            return {"": collected.finish()}
        expanded = expand_p2(
            [self.anchor[i] for i in keep],
            [self.rows[i]["anchor_text"] for i in keep],
            [self.comparison[i] for i in keep],
            [self.rows[i]["comparison_text"] for i in keep],
            kinds,
            episodes,
        )
        from_hard = np.repeat([kind == 2 for kind in kinds if kind], 4)
        return {"": expanded.select(from_hard | (expanded.kind == 1)), "lpe": expanded.select(~from_hard)}


def csv_files(folder: Path) -> list[Path]:
    """The files ``*_{1..4}word.csv`` of ``folder``. Raises UserError when there is none."""
    if not folder.is_dir():
        raise UserError(f"the folder of LibriPhrase CSV files {folder} does not exist.")
    files = [f for w in range(1, 5) for f in sorted(folder.glob(f"*_{w}word.csv")) if not f.name.startswith("clips_")]
    if not files:
        raise UserError(f"{folder} holds no LibriPhrase CSV files such as libriphrase_diffspk_all_1word.csv.")
    return files


def read_test(folder: Path, audio: Path | None, librispeech: Path) -> TestRows:
    """The rows of ``*_{1..4}word.csv`` in ``folder``, official or built.

    Built files come with ``clips_{w}word.csv``; official ones name whole files under ``audio``.

    Raises:
        UserError: no such file, a column missing, or an unknown type.
    """
    files = csv_files(folder)
    rows: list[dict[str, str]] = []
    spans: dict[str, tuple[str, float, float]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            for column in COLUMNS:
                if column not in (reader.fieldnames or ()):
                    raise UserError(f"{file} has no column '{column}'.{did_you_mean(column, reader.fieldnames or ())}")
            rows += [{**row, "anchor_text": row["anchor_text"].lower()} for row in reader]
        clips = folder / f"clips_{file.stem.rsplit('_', 1)[1]}.csv"
        if clips.exists():
            with clips.open(newline="", encoding="utf-8") as opened:
                spans |= {
                    r["clip"]: (r["utterance"], float(r["start"]), float(r["end"])) for r in csv.DictReader(opened)
                }
    for row in rows:
        row["comparison_text"] = row["comparison_text"].lower()
        if row["type"] not in TYPES:
            raise UserError(
                f"{folder}: type '{row['type']}' is not used by these tests.{did_you_mean(row['type'], TYPES)}"
            )
    number: dict[str, int] = {}
    anchor = [number.setdefault(row["anchor"], len(number)) for row in rows]
    comparison = [number.setdefault(row["comparison"], len(number)) for row in rows]
    paths, starts, ends = [], [], []
    for clip in number:
        utterance, start, end = spans.get(clip, ("", 0.0, float("inf")))
        paths.append(recording(librispeech, clip.split("/")[0], utterance) if utterance else (audio or folder) / clip)
        starts.append(start)
        ends.append(end)
    return TestRows(Segments(paths, starts, ends), anchor, comparison, rows)
