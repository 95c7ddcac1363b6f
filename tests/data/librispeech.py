"""A miniature LibriSpeech: tones for words, alignments in both layouts."""

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
WORD_S = 0.6  # one word is a phrase, three words are (1.8 s), four words (2.4 s) are too long
WORDS = ("friend", "trend", "guard", "river", "two", "too")


def utterance(number: int, takes: int) -> list[str]:
    """Each word ``takes`` times, in an order that differs from speaker to speaker, pauses after every third."""
    order = np.random.default_rng(number).permutation(np.repeat(np.arange(len(WORDS)), takes))
    spoken = [WORDS[i] for i in order]
    return [word for i, w in enumerate(spoken) for word in ([w, ""] if i % 3 == 2 else [w])]


def write_subset(
    root: Path, subset: str, speakers: list[int], takes: int = 6, layout: str = "text", word_s: float = WORD_S
) -> None:
    """One recording a speaker. ``layout``: text (.alignment.txt beside the audio) or csv (beside the subsets)."""
    rows = []
    for speaker in speakers:
        folder = root / subset / str(speaker) / "100"
        folder.mkdir(parents=True)
        name = f"{speaker}-100-0000"
        words = utterance(speaker, takes)
        ends = np.cumsum([word_s if word else 0.2 for word in words])
        starts = [0.0, *ends[:-1]]
        audio = np.concatenate(
            [
                0.3 * np.sin(2 * np.pi * (200 + 100 * WORDS.index(w)) * np.arange(round(word_s * RATE)) / RATE)
                if w
                else np.zeros(round(0.2 * RATE))
                for w in words
            ]
        )
        soundfile.write(folder / f"{name}.flac", audio, RATE)
        if layout == "text":
            said = ",".join(word.upper() for word in words)
            times = ",".join(f"{end:.3f}" for end in ends)
            (folder / f"{speaker}-100.alignment.txt").write_text(f'{name} "{said}" "{times}"\n')
        rows += [
            (f"{subset}/{subset}/{speaker}/100/{name}.wav", f"{start:.3f}", f"{end:.3f}", word or "")
            for word, start, end in zip(words, starts, ends, strict=True)
        ]
    if layout == "csv":
        kind, part, *hours = subset.split("-")
        name = f"librispeech_{part}_{kind}{''.join(f'_{h}h' for h in hours)}_all_utt.csv"
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("audio_filename", "start", "end", "text"))
            writer.writerows(rows)
