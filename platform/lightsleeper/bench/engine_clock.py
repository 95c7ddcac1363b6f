"""A wake-word engine in an environment of its own, timed in turns with ours: the parent's side of `engine_times.py`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from lightsleeper.errors import UserError

FORMS = {"package": "through its package", "function": "its C function alone"}


class EngineClock:
    """pvporcupine under the Python that has it; it rests while ours are timed.

    Args:
        python: interpreter of that environment.
        audio: int16 samples (n,), 16 kHz.
        folder: where they are written for it.
        keyword: what it listens for.

    Raises UserError where it does not start.
    """

    def __init__(self, python: str, audio: np.ndarray, folder: Path, keyword: str) -> None:
        self.python, self.audio, self.folder, self.keyword = python, audio, folder, keyword

    def __enter__(self) -> "EngineClock":
        raw = self.folder / "audio.raw"
        raw.write_bytes(self.audio.astype("<i2").tobytes())
        command = [self.python, str(Path(__file__).with_name("engine_times.py")), str(raw), self.keyword]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        except OSError as error:
            raise UserError(f"--engine: cannot start '{self.python}': {error.strerror}.") from error
        self.facts = self._answer()
        self.frame_samples = int(self.facts["frame_samples"])
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def stretch(self, first: int, samples: int) -> dict[str, tuple[float, float]]:
        """Mean seconds of a frame, of the clock and of the processor, by form, over ``samples`` from ``first`` on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first // self.frame_samples} {samples // self.frame_samples}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return {form: (answer[form][0], answer[form][1]) for form in FORMS}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            said = errors.strip().splitlines()
            raise UserError(f"--engine: '{self.python}' runs no pvporcupine: {said[-1] if said else 'no message'}.")
        return json.loads(line)
