"""LibriSpeech with word alignments from a data set of the hub, unpacked into the layout it has on people's disks."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile

from lightsleeper.data.hub_data import need_column, open_dataset
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, replacing

_PAUSE_S = 0.005  # between words: shorter ones are rounding


def unpack_librispeech(source: str, revision: str | None, subsets: Sequence[str]) -> Path:
    """Subsets of a data set of the hub in LibriSpeech's own layout with alignments beside the recordings, once, in the
    cache.

    Splits are named as subsets, with ``_`` or ``-``; columns: ``id``, ``audio``, and ``words``, whose items have
    ``word``, ``start`` and ``end`` in seconds.

    Raises:
        UserError: there is no such data set, split or column.
    """
    from datasets import Audio

    folder = cache_folder("librispeech", content_hash([source, revision]))
    missing = [subset for subset in subsets if not (folder / subset / "complete").exists()]
    if not missing:
        return folder
    splits = open_dataset(source, None, revision, {name: (name, name.replace("-", "_")) for name in subsets})
    for subset in missing:
        if subset not in splits:
            raise UserError(f"{source} has no split '{subset}'; it has {', '.join(splits) or 'none that is needed'}.")
        table = splits[subset]
        for column in ("id", "audio", "words"):
            need_column(table, column, source)
        lines: dict[Path, list[str]] = {}
        for row in table.cast_column("audio", Audio(decode=False)):
            speaker, chapter, _ = row["id"].split("-")
            place = folder / subset / speaker / chapter
            place.mkdir(parents=True, exist_ok=True)
            seconds = _write_flac(place / f"{row['id']}.flac", row["audio"])
            said, ends = _with_pauses(row["words"], seconds)
            listed = lines.setdefault(place / f"{speaker}-{chapter}.alignment.txt", [])
            listed.append(f'{row["id"]} "{",".join(said)}" "{",".join(f"{end:.3f}" for end in ends)}"')
        for file, listed in lines.items():
            with replacing(file) as temporary:
                temporary.write_text("\n".join(listed) + "\n", encoding="utf-8")
        (folder / subset / "complete").touch()  # written last
    return folder


def _write_flac(place: Path, audio: Mapping[str, Any]) -> float:
    """Write a recording; how long it is, seconds."""
    samples, rate = soundfile.read(BytesIO(audio["bytes"]) if audio["bytes"] else audio["path"], dtype="int16")
    with replacing(place) as temporary:
        soundfile.write(temporary, samples, rate, format="FLAC")
    return len(samples) / rate


def _with_pauses(words: Sequence[Mapping[str, Any]], seconds: float) -> tuple[list[str], list[float]]:
    """Words and the time at which each ends, pauses as words without text: the aligner's own lines."""
    said: list[str] = []
    ends: list[float] = []
    at = 0.0
    for item in words:
        if item["start"] - at > _PAUSE_S:
            said.append("")
            ends.append(float(item["start"]))
        said.append(str(item["word"]))
        ends.append(float(item["end"]))
        at = float(item["end"])
    if seconds - at > _PAUSE_S:
        said.append("")
        ends.append(seconds)
    return said, ends
