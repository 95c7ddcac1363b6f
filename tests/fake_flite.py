"""A program called flite for tests: lists voices, says texts as tones, and hides failures as the real one does."""

import os
import sys
from pathlib import Path

import pytest

SCRIPT = f"""#!{sys.executable} -S
import sys, wave
from pathlib import Path
words = sys.argv[1:]
if words == ["-lv"]:
    print("Voices available: kal awb_time kal16 awb slt ")
    sys.exit()
voice, text, out = (words[words.index(option) + 1] for option in ("-voice", "-t", "-o"))
if text == "mute":
    print("cannot say it", file=sys.stderr)
    sys.exit()
with Path(sys.argv[0]).with_name("calls.txt").open("a") as calls:
    calls.write(voice + " says " + text + "\\n")
rate = 8000 if voice == "awb" else 16000
with wave.open(out, "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes(bytes([0, 32, 0, 224]) * (rate // 8 + 100 * len(text)))
"""
VOICES = ["kal16", "awb", "slt"]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = SCRIPT) -> Path:
    """Put the program first on PATH; returns the file that gets a line for each clip it says."""
    folder.mkdir(exist_ok=True)
    program = folder / "flite"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "calls.txt"
