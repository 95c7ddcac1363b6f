"""Networks of the transformers library: from the hub, a local folder, a GGUF file or a config; and back to a folder.
What the families around one such network share.

Code from the hub is never run, and weights are float32 until `trainer.precision` says otherwise. A GGUF file is
dequantised once and kept in the cache: transformers takes 18 s for 135 M parameters (measured), and a run builds its
model several times.
"""

import dataclasses
import inspect
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import cache_folder, content_hash, gguf_parts, sha256
from lightsleeper.metrics.classes import ClassMetrics
from lightsleeper.metrics.language import LanguageMetrics
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Family, SavedModel
from lightsleeper.nn.optimizer import Schedule, scheduled_adamw
from lightsleeper.nn.ranges import above_zero, at_least
from lightsleeper.run_folder import WEIGHTS
from lightsleeper.sharding import shard

Auto = type[_BaseAutoModelClass]

OLD_KEYS = ("rope_theta", "rope_scaling", "num_labels", "id2label", "label2id")  # read, but no fields of a config
SAVED_BY = "transformers_version"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class HubFamily(Family):
    """A family around one network of transformers: a subclass sets ``net`` and ``metrics``.

    Its ``observe`` updates ``metrics``.
    """

    net: PreTrainedModel
    metrics: LanguageMetrics | ClassMetrics

    def __init__(self, lr: float, schedule: Schedule, warmup_steps: int, weight_decay: float) -> None:
        super().__init__()
        at_least(0, warmup_steps=warmup_steps, weight_decay=weight_decay)
        above_zero(lr=lr)
        self.lr, self.schedule = lr, schedule
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay

    def configure_model(self) -> None:
        """Cut the weights into shards where the Trainer's strategy is `fsdp2`."""
        if self._device_mesh is not None:
            shard(self.net, self._device_mesh["data_parallel"], str(self.trainer.precision))

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        return self.metrics.results(prefix, intervals=intervals)

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(
            self.trainer,
            self.parameters(),
            self.lr,
            self.weight_decay,
            self.schedule,
            self.warmup_steps,
            decay="matrices",
        )

    def save_transformers(self, folder: Path) -> None:
        if self.structure:
            raise UserError("layers were folded or narrowed by compression: transformers cannot build this network.")
        save(self.net, folder)


def check_vocabulary(data: int, model: int) -> None:
    """Raise UserError where the data's tokens are not the model's: more of them, or fewer than half."""
    if data > model:
        raise UserError(
            f"the data has {data} different tokens, the model knows {model}: set model.config.vocab_size or "
            "data.tokenizer."
        )
    if 2 * data < model:
        raise UserError(f"the data has {data} different tokens, the model {model}: data.tokenizer is not the model's.")


def need_one(**sources: Any) -> None:
    """Raise ValueError unless exactly one of the arguments is given."""
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(sources)}; got {' and '.join(given) or 'none'}")


def pretrained(
    auto: Auto, source: str, revision: str | None = None, gguf_file: str | None = None, **options: Any
) -> PreTrainedModel:
    """The network of a hub name, local folder or GGUF file, in training mode.

    Raises UserError where there is none, where the hub cannot be reached, and for one that needs code of its own.
    """
    if gguf_file is None:
        source, gguf_file = gguf_parts(source)
    if gguf_file is not None:
        source, revision = str(_dequantised(auto, Path(source), gguf_file)), None
    with _quiet(), _told(auto, source):
        network = auto.from_pretrained(
            source, revision=revision or "main", trust_remote_code=False, dtype=torch.float32, **options
        )
    return network.train()


def tokenizer_of(source: str, gguf_file: str | None = None) -> Any:
    """The source's tokenizer; None where it has none."""
    from transformers import AutoTokenizer

    if gguf_file is None:
        source, gguf_file = gguf_parts(source)
    folder = Path(source)
    if folder.is_dir() and gguf_file is None and not any((folder / name).is_file() for name in TOKENIZERS):
        return None  # transformers would make an empty one
    try:
        return AutoTokenizer.from_pretrained(source, **({"gguf_file": gguf_file} if gguf_file else {}))
    except Exception:  # each kind of missing file raises its own
        return None


def model_type(source: str, revision: str | None = None) -> str:
    """What kind of network a hub name or local folder holds. Raises UserError."""
    with _quiet(), _told(AutoConfig, source):
        return AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False).model_type


def created(auto: Auto, config: Mapping[str, Any]) -> PreTrainedModel:
    """A network of random weights from the fields of a transformers config, ``model_type`` among them.

    Raises UserError for an unknown type, a field that this type does not have, and sizes that do not go together.
    """
    settings = dict(config)
    kind = settings.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise UserError(f"config.model_type: transformers has no '{kind}'.{_near(kind, CONFIG_MAPPING.keys())}")
    if SAVED_BY not in settings:  # written by hand: transformers takes a misspelt field for an attribute of its own
        known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
        known |= {*(getattr(CONFIG_MAPPING[kind], "attribute_map", None) or ()), *OLD_KEYS}
        for name in settings:
            if name not in known:
                raise UserError(f"config.{name}: a {kind} has no such field.{_near(name, known)}")
    try:
        with _quiet():
            return auto.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"config: no {kind} can be built of it: {_short(error)}") from error


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Every field of a config as JSON: what `created` needs to build the network again."""
    fields = json.loads(json.dumps(config.to_dict()))  # numbers that are keys become text, as in a file
    # Paths of this machine are not part of the architecture; the precision is the trainer's.
    return {name: value for name, value in fields.items() if name not in ("_name_or_path", "dtype")}


def load_weights(module: nn.Module, saved: SavedModel) -> None:
    """Load the weights of a finished model, tied ones too, strictly. Raises UserError."""
    path = saved.folder / WEIGHTS
    try:
        load_model(module, str(path), strict=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights '{path}': {error}") from error
    except RuntimeError as error:
        raise saved.misfit(error) from error


def save(network: PreTrainedModel, folder: Path) -> None:
    """Write ``folder`` for `from_pretrained`, and read it back: every tensor has to be the same."""
    with _quiet():
        network.save_pretrained(folder)
        twin = type(network).from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, value in network.state_dict().items():
        if name not in twin or not torch.equal(value, twin[name]):
            raise UserError(f"{folder}: transformers reads another '{name}' than was written.")


def takes(network: nn.Module, argument: str) -> bool:
    """Whether the network's forward has an argument of this name."""
    return argument in inspect.signature(network.forward).parameters


def _dequantised(auto: Auto, folder: Path, file: str) -> Path:
    """A folder in the cache with the float32 weights of a GGUF file."""
    path = folder / file
    if not path.is_file():
        near = did_you_mean(file, (found.name for found in folder.glob("*.gguf"))) if folder.is_dir() else ""
        raise UserError(f"gguf_file: {path} does not exist.{near}")
    if find_spec("gguf") is None:
        raise UserError("gguf_file needs the package gguf: pip install gguf")
    from filelock import FileLock
    from transformers import __version__

    parent = cache_folder("gguf")
    target = parent / content_hash({"sha256": sha256(path), "transformers": __version__})
    with FileLock(parent / f"{target.name}.lock"):
        if not target.is_dir():
            with _quiet(), _told(auto, str(folder)), tempfile.TemporaryDirectory(dir=parent) as temporary:
                quantized = auto.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
                fields = {k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
                # transformers saves no network that has been quantized: the plain one of the same weights.
                network = auto.from_config(type(quantized.config).from_dict(fields), dtype=torch.float32)
                network.load_state_dict(quantized.state_dict())
                network.save_pretrained(Path(temporary) / "model")
                shutil.move(Path(temporary) / "model", target)
    return target


@contextmanager
def _told(auto: type, source: str) -> Iterator[None]:
    """What transformers raises for a network that it cannot load, as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot load '{source}': neither a local folder with a transformers model nor reachable on the hub. "
            "Give a local folder, or a config."
        ) from error
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = (
            "it needs code from the hub, which is never run" if "trust_remote_code" in str(error) else _short(error)
        )
        raise UserError(f"cannot load '{source}' as {auto.__name__.removeprefix('Auto')}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws progress bars and warns of what is meant here (a fresh head, another task)."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _near(name: object, known: Any) -> str:
    """The nearest name, where the list of all would be no help."""
    text = did_you_mean(str(name), known)
    return text if "Did you mean" in text else ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
