"""Compression callbacks for any Lightning project.

Each method is a callback to give to a Trainer; ``finalize`` turns the trained module into the plain one that ships.
"""

from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.finalize import finalize, load_compressed, save_compressed
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.magnitude import MagnitudePruning
from lightsleeper_callbacks.pdp import PDPMasking
from lightsleeper_callbacks.repconv import RepConv1d, RepConv2d
from lightsleeper_callbacks.subclone import SubcloneInitialization

__all__ = [
    "Compression",
    "EDKMClustering",
    "FoldOnExport",
    "MagnitudePruning",
    "PDPMasking",
    "Phase",
    "RepConv1d",
    "RepConv2d",
    "SubcloneInitialization",
    "finalize",
    "load_compressed",
    "save_compressed",
]
