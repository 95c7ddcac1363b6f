"""A packed file as a model again: the file says itself how to build it, and nothing else of the run is needed.

    from lightsleeper.deploy.packed_model import load, load_tokenizer

    model, tokenizer = load("runs/lm_edkm/last/export"), load_tokenizer("runs/lm_edkm/last/export")
    ids = model.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=20)
    model.save_pretrained("unpacked")      # a folder for transformers, every weight as it was trained

Weights are float32 in memory: what is small is the file.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightsleeper.deploy import packed
from lightsleeper.deploy.export import PACKED, TOKENIZER, TRANSFORMERS
from lightsleeper.deploy.finalize import build, read_description
from lightsleeper.errors import UserError
from lightsleeper.models.family import Family
from lightsleeper.models.hub import HubFamily, tokenizer_of
from lightsleeper.run_folder import ARCHITECTURE, EXPORT


def packed_file(source: str | Path) -> Path:
    """The packed file that ``source`` is, or that lies in it: a run or an export folder. Raises UserError."""
    source = Path(source)
    for path in (source, source / PACKED, source / EXPORT / PACKED):
        if path.is_file():
            return path
    if not source.exists():
        raise UserError(f"{source} does not exist: expected a packed file, or a run or export folder that has one.")
    raise UserError(f"{source} has no {PACKED}: the run's formats did not name 'packed'.")


def load_family(source: str | Path) -> Family:
    """The model of a packed file, in eval mode on the CPU, bit for bit the one that was packed.

    ``source``: the file, or a run or export folder that has one. Raises UserError for a file that cannot be read, and
    for one that says nothing of its model, as those of earlier versions do, away from its `model.json`.
    """
    path = packed_file(source)
    description = packed.describe(path)
    if description is None:
        if not (path.parent / ARCHITECTURE).is_file():
            raise UserError(f"{path} does not say what it holds, and there is no {ARCHITECTURE} beside it.")
        description = read_description(path.parent)
    return packed.unpack(path, build(description, path)).eval()


def load(source: str | Path) -> PreTrainedModel:
    """The network of transformers in a packed file, as `load_family` finds it: ready for `generate`.

    Raises UserError where `load_family` does, and for a model of another kind.
    """
    family = load_family(source)
    if not isinstance(family, HubFamily):
        raise UserError(f"{source} holds a {type(family).__name__}, no network of transformers: take load_family.")
    return family.net


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the export wrote beside a packed file. Raises UserError where there is none."""
    folder = packed_file(source).parent
    for name in (TRANSFORMERS, TOKENIZER):
        found: Any = tokenizer_of(str(folder / name)) if (folder / name).is_dir() else None
        if found is not None:
            return found
    raise UserError(f"{folder} has no tokenizer: neither {TRANSFORMERS}/ nor {TOKENIZER}/ holds one.")
