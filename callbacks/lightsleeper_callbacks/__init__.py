"""Compression callbacks for any Lightning project.

Each method is a callback to give to a Trainer; ``finalize`` turns the trained module into the plain one that ships.
"""

from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.finalize import finalize, load_compressed, save_compressed

__all__ = ["Compression", "Phase", "finalize", "load_compressed", "save_compressed"]
