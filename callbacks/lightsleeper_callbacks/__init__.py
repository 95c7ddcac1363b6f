"""Compression callbacks for any Lightning project.

Each method is a callback to give to a Trainer; ``finalize`` turns the trained module into the plain one that ships.
"""

from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.finalize import finalize, load_compressed, save_compressed
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.repconv import RepConv1d, RepConv2d

__all__ = [
    "Compression",
    "FoldOnExport",
    "Phase",
    "RepConv1d",
    "RepConv2d",
    "finalize",
    "load_compressed",
    "save_compressed",
]
