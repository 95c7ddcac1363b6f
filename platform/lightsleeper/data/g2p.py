"""Pronunciation of words that no dictionary holds: the neural model of g2p_en (Apache-2.0), run in numpy.

Only the package's weights are used (834,890 values; a GRU reads the letters, a second one writes ARPAbet). Importing
g2p_en itself would want a dictionary and a tagger from NLTK, downloaded on the spot.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.errors import UserError

_LETTERS = {letter: 3 + index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}  # 0..2: pad, unk, end
_UNKNOWN_LETTER, _LETTERS_END = 1, 2
_START, _END = 2, 3
_LONGEST = 20  # symbols; the model was trained on dictionary words

_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")


def _symbols() -> tuple[str, ...]:
    """The model's output inventory: 4 specials, then 70 phones, vowels with stress digits, in alphabetical order."""
    consonants = ("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH",
                  "V", "W", "Y", "Z", "ZH")  # fmt: skip
    phones = sorted([*consonants, "UW", *(vowel + stress for vowel in _VOWELS for stress in "012")])
    return ("<pad>", "<unk>", "<s>", "</s>", *phones)


SYMBOLS = _symbols()


@cache
def _weights() -> dict[str, NDArray[np.float32]]:
    spec = importlib.util.find_spec("g2p_en")  # finds the folder, runs nothing
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], "checkpoint20.npz") if places else Path()
    if not path.is_file():
        raise UserError("the weights of g2p_en are missing: reinstall it with `pip install g2p_en`.")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def spell_out(word: str) -> list[str]:
    """ARPAbet phones of one word of letters a-z, vowels with stress digits; the same word always gives the same."""
    w = _weights()
    state = np.zeros(w["enc_w_hh"].shape[1], np.float32)
    for letter in [*(_LETTERS.get(c, _UNKNOWN_LETTER) for c in word), _LETTERS_END]:
        state = _gru(w["enc_emb"][letter], state, "enc", w)
    symbol, phones = _START, []
    for _ in range(_LONGEST):
        state = _gru(w["dec_emb"][symbol], state, "dec", w)
        symbol = int(np.argmax(w["fc_w"] @ state + w["fc_b"]))
        if symbol == _END:
            break
        if symbol > _END:
            phones.append(SYMBOLS[symbol])
    return phones


def _gru(x: NDArray[np.float32], state: NDArray[np.float32], part: str, w: dict) -> NDArray[np.float32]:
    """One step of a gated recurrent unit; gates in the order reset, update, new."""
    from_x = w[f"{part}_w_ih"] @ x + w[f"{part}_b_ih"]
    from_state = w[f"{part}_w_hh"] @ state + w[f"{part}_b_hh"]
    size = len(state)
    gates = 1 / (1 + np.exp(-(from_x[: 2 * size] + from_state[: 2 * size])))
    reset, update = gates[:size], gates[size:]
    new = np.tanh(from_x[2 * size :] + reset * from_state[2 * size :])
    return (1 - update) * new + update * state
