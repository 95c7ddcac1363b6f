"""Test speech by flite, an engine that no model here is trained on: the texts of a corpus in voices of another kind.

The speech is left clean: noise and rooms would hide what is asked, whether a model has learned speech or espeak-ng.
flite says nothing when it fails (an unknown voice or an unwritable place ends with exit code 0), so each file is read.
"""

import csv
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lightsleeper.data.audio import SAMPLE_RATE, AudioError, read_audio
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash, replacing, write_json

MARKER = "speech.json"
"""Says what the folder holds; written first, so that only a folder of ours is ever written into."""
LIMITED = ("awb_time",)  # can say the time of day and nothing else
TWINS = {"kal": "kal16"}  # one speaker at 8 and at 16 kHz: two would be no second voice


@dataclass(frozen=True)
class Clip:
    path: str
    """Relative to the folder."""
    text: str
    speaker: str


def find_flite() -> str:
    """Path of the program; raises UserError when it is not installed."""
    program = shutil.which("flite")
    if program is None:
        raise UserError("flite is not installed. Run: apt install flite")
    return program


def voices(program: str) -> list[str]:
    """The voices that can say anything, each speaker once. Raises UserError when there is none."""
    try:
        listed = subprocess.run([program, "-lv"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    except OSError as error:
        raise UserError(f"{program} cannot be started: {error.strerror}.") from None
    names = listed.partition("Voices available:")[2].split()
    kept = [name for name in dict.fromkeys(names) if name not in LIMITED and TWINS.get(name) not in names]
    if not kept:
        raise UserError(f"`{program} -lv` lists no voice that can say any text; it printed {listed.strip()!r}.")
    return kept


def choose_texts(texts: Sequence[str], count: int) -> list[str]:
    """``count`` different texts in their order, in equal shares of one word, two words and so on.

    The corpus lists all one-word families first, then those of two words: its first 400 texts would be single words.
    """
    seen: Counter[int] = Counter()
    ranked = []
    for place, text in enumerate(different := list(dict.fromkeys(texts))):
        words = len(text.split())
        ranked.append((seen[words], place))
        seen[words] += 1
    return [different[place] for place in sorted(place for _, place in sorted(ranked)[:count])]


def refuse_foreign(folder: Path) -> None:
    """Raise UserError when ``folder`` holds anything and is not a folder of ours."""
    if folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise UserError(
            f"{folder} is not an empty folder, nor one that `lightning data speak` has begun: name another."
        )


def speak(texts: Sequence[str], folder: Path, program: str, progress: bool = True) -> int:
    """Every text in every voice as 16 kHz WAV files, and ``manifest.csv`` last; returns how many files were new.

    A folder left half made is completed.

    Raises:
        UserError: the folder is not ours, holds other speech or cannot be written, or flite did not say a text.
    """
    names = voices(program)
    clips = [
        Clip(f"{voice}/{number:04d}_{text.replace(' ', '_')[:40]}.wav", text, voice)
        for number, text in enumerate(texts)
        for voice in names
    ]
    _claim(folder, {"engine": "flite", "voices": names, "texts": len(texts), "hash": content_hash(list(texts))})
    missing = [clip for clip in clips if not (folder / clip.path).exists()]
    for voice in names:
        (folder / voice).mkdir(exist_ok=True)
    _say_all(missing, folder, program, progress)
    with replacing(folder / "manifest.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "speaker"])
        writer.writerows([clip.path, clip.text, clip.speaker] for clip in clips)
    return len(missing)


def _claim(folder: Path, content: dict[str, object]) -> None:
    """Mark ``folder`` as ours, or see that it was begun for the same ``content``."""
    refuse_foreign(folder)
    marker = folder / MARKER
    if marker.exists():
        try:
            held = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            held = None
        if held != content:
            raise UserError(f"{folder} was made from other texts or voices (see {MARKER} there): name another folder.")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}.") from None
    write_json(marker, content, indent=1)


def _say_all(clips: Sequence[Clip], folder: Path, program: str, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not (progress and console.is_terminal)
    # One folder for what is unfinished: it goes at once when the build is stopped.
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as scratch,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jobs = [pool.submit(_say, clip, folder, program, Path(scratch, f"{n}.wav")) for n, clip in enumerate(clips)]
        finished = track(
            as_completed(jobs), "flite speaks", total=len(jobs), console=console, transient=True, disable=hidden
        )
        try:
            for job in finished:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _say(clip: Clip, folder: Path, program: str, temporary: Path) -> None:
    command = [program, "-voice", clip.speaker, "-t", clip.text, "-o", str(temporary)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    try:
        audio = read_audio(temporary)
    except AudioError as error:
        said = f" ({' '.join(done.stderr.split())})" if done.stderr.strip() else ""
        raise UserError(
            f"flite did not say '{clip.text}' as {clip.speaker}: its file {error.reason}, exit code {done.returncode}"
            f"{said}."
        ) from None
    samples = np.clip(np.round(audio * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(temporary, samples, SAMPLE_RATE, subtype="PCM_16")
    os.replace(temporary, folder / clip.path)
