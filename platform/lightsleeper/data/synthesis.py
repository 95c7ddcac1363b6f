"""Speech from espeak-ng through ctypes: one engine, int16 samples, word and phoneme times.

espeak-ng keeps hidden state between calls (the phase of its pitch flutter, the position in its noise), so the same call
gives other samples after another history. An ``Engine`` therefore loads its own copy of the library file: two engines
that say the same list of things give the same samples, in any process. The library must run in its synchronous mode;
the default one returns before the audio is there.

espeak-ng is GPL-3: it is in the ``demo`` extra only, and only worker processes ever load it.
"""

import ctypes
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lightsleeper.errors import UserError

ACCENTS: tuple[str, ...] = (
    "en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us", "en-us-nyc",
)  # fmt: skip
"""British, Caribbean, Scottish, Lancastrian, West Midlands, Received, American, New York (a ninth reads Shavian)."""

# Left out of the 104 that espeak-ng carries: those with a robot's echo, which rings on after the phrase (robosoft*,
# RicishayMax*, anikaRobot, UniRobot), Demonic, and `fast`, which only changes the rate.
VARIANTS: tuple[str, ...] = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "AnxiousAndy", "Denis", "Diogo", "Gene", "Gene2", "Henrique",
    "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Mr serious", "Nguyen", "Reed", "Storm", "Tweaky",
    "adam", "anika", "announcer", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "croak", "david",
    "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "gustave", "ian", "iven",
    "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6",
    "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "mike2",
    "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "steph3",
    "travis", "victor", "whisper", "whisperf", "zac",
)  # fmt: skip

RATE_WPM = (90, 215)
"""Above 215 words a minute there are more phones than 40 ms frames, and CTC has no path."""

_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT, _UTF8 = 2, 1, 0x8000, 1
_RATE, _VOLUME, _PITCH = 1, 2, 3  # numbers of espeak_PARAMETER
_PHONEME = 7  # numbers of espeak_EVENT_TYPE; 0 ends a list
_VOLUME_PERCENT = 60  # at 100, the default, a dozen variants clip


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Utterance:
    """What the engine said: audio at its native rate and when each word and phoneme begins, in seconds."""

    samples: np.ndarray  # (samples,) int16
    rate_hz: int
    word_starts_s: list[float]
    word_ends_s: list[float]
    phone_labels: list[str] = field(default_factory=list)
    """espeak's own phoneme names, with its stress marks; pauses left out."""
    phone_starts_s: list[float] = field(default_factory=list)


def require_espeak() -> None:
    """Raises UserError when the library is not installed; imports nothing of it."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(
            "the spoken-phrase corpus needs espeak-ng, which is not installed. Run: pip install -e '.[demo]'"
        )


class Engine:
    """One private espeak-ng. Use it in a worker process, as a context manager; not in threads.

    Example::

        with Engine() as engine:
            utterance = engine.say("turn on the light", accent="en-us", variant="Alex", rate_wpm=160, pitch=50)

    Raises UserError when the library is missing or a voice is unknown.
    """

    def __init__(self) -> None:
        require_espeak()
        import espeakng_loader

        source = Path(espeakng_loader.get_library_path())
        folder = tempfile.mkdtemp(prefix="lightsleeper-espeak-")
        try:  # the file is mapped, so the copy may go at once (on Windows it may not, and stays in the temp folder)
            copy = shutil.copy(source, folder)
            self._library = ctypes.CDLL(str(copy))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _seed_c_library()
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _DONT_EXIT)
        if self.rate_hz <= 0:
            raise UserError(f"espeak-ng would not start from {data.decode()} (code {self.rate_hz})")
        self._library.espeak_ng_SetRandSeed(1)  # initialising seeds its noise from the clock
        self._variants = {file.name for file in Path(data.decode(), "voices", "!v").iterdir()}
        self._chunks: list[bytes] = []
        self._phones: list[tuple[int, int, bytes]] = []  # sample, text position (1-based characters), label
        self._callback: Any = _Callback(self._collect)  # a reference must outlive the calls
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, *, accent: str, variant: str, rate_wpm: int, pitch: int) -> Utterance:
        """Speak ``text`` (words parted by single blanks). ``pitch`` 0..100, 50 is the variant's own."""
        library = self._library
        voice = f"{accent}+{variant}"
        # An unknown variant is no error to espeak-ng: it speaks in the plain accent.
        if variant not in self._variants or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice '{voice}'")
        library.espeak_SetParameter(_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_VOLUME, _VOLUME_PERCENT, 0)
        self._chunks.clear()
        self._phones.clear()
        data = text.encode()
        code = library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if code != 0:
            raise UserError(f"espeak-ng could not say {text!r} (code {code})")
        samples = np.frombuffer(b"".join(self._chunks), np.int16)
        spoken = [(sample, position, label) for sample, position, label in self._phones if not label.startswith(b"_")]
        starts, ends = word_times(text, self._phones, len(samples))
        return Utterance(
            samples,
            self.rate_hz,
            [start / self.rate_hz for start in starts],
            [end / self.rate_hz for end in ends],
            [label.decode(errors="replace") for _, _, label in spoken],
            [sample / self.rate_hz for sample, _, _ in spoken],
        )

    def close(self) -> None:
        """Give the engine's memory back. The object cannot be used afterwards."""
        self._library.espeak_Terminate()
        try:
            import _ctypes

            _ctypes.dlclose(self._library._handle)
        except (ImportError, AttributeError):  # Windows: the copy stays mapped until the process ends
            pass

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self, wave: int | None, count: int, events: Any) -> int:
        if wave and count > 0:
            self._chunks.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type != 0:
            event = events[index]
            if event.type == _PHONEME:
                self._phones.append((event.sample, event.text_position, bytes(event.id.string)))
            index += 1
        return 0


def word_times(text: str, phones: Sequence[tuple[int, int, bytes]], length: int) -> tuple[list[int], list[int]]:
    """First and last sample of each word of ``text``, from phoneme events (sample, text position, label).

    A phoneme belongs to the word that its text position lies in. (The engine's word events come a phoneme too early.)
    Pairs such as "on the" are one entry in espeak's dictionary and carry one position: their stretch is divided by
    letters.
    """
    words = text.split(" ")
    offsets = np.cumsum([0] + [len(word) + 1 for word in words[:-1]]) + 1  # 1-based first character of each word
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    previous: int | None = None
    for sample, position, label in phones:
        word = int(np.searchsorted(offsets, position, side="right")) - 1
        pause = label.startswith(b"_") or not label
        if previous is not None and (pause or word != previous):
            last[previous] = sample  # overwritten if the word goes on after a glottal pause
        if pause:
            previous = None
            continue
        first.setdefault(word, sample)
        last[word] = length
        previous = word
    starts, ends = [0] * len(words), [length] * len(words)
    known = sorted(first)
    if not known:
        cuts = _divide(0, length, words)
        return [a for a, _ in cuts], [b for _, b in cuts]
    if known[0] != 0:  # a first word without phonemes shares the stretch of the next
        first[0], last[0] = first[known[0]], last[known[0]]
        del first[known[0]], last[known[0]]
        known[0] = 0
    for here, after in zip(known, [*known[1:], len(words)], strict=True):
        for word, (a, b) in zip(range(here, after), _divide(first[here], last[here], words[here:after]), strict=True):
            starts[word], ends[word] = a, b
    return starts, ends


def _divide(start: int, end: int, words: Sequence[str]) -> list[tuple[int, int]]:
    edges = np.cumsum([0] + [len(word) for word in words], dtype=float)
    edges = start + edges / edges[-1] * (end - start)
    return [(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _seed_c_library() -> None:
    # The Klatt variants take their noise from the C library's rand(), which all copies of the engine share.
    try:
        ctypes.CDLL(None).srand(1)
    except (TypeError, OSError, AttributeError):  # Windows
        ctypes.CDLL("msvcrt").srand(1)
