"""What every model family offers beyond LightningModule: export graphs, context, calibration, its own measurements.

The stages of a run (fit, finalize, test, export, benchmark) speak to models through this class only.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightsleeper_callbacks.structure import Structure
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics import Metric

from lightsleeper.errors import UserError
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, WEIGHTS

Batch = dict[str, Any]


@dataclass
class ExportGraph:
    """One graph of a deliverable: a module of plain tensors in, plain tensors out."""

    name: str
    """File stem; the first graph of a family is the one whose latency is the headline."""
    module: nn.Module
    """Called as ``module(*inputs.values())``."""
    sample: Callable[[int], dict[str, Tensor]]
    """``sample(seed)`` draws one set of valid named inputs; lengths and states differ from seed to seed (parity)."""
    outputs: list[str]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    """Input name -> axis -> name of the dynamic dimension."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Written into the file: sample rate, phones, threshold, context."""
    bench: Callable[[float], dict[str, Tensor]] | None = None
    """``bench(ms)`` draws one input of ``ms`` milliseconds for latency; None: ``sample(0)`` is timed."""
    per: str = "clip"
    """What one call processes: hop, clip, prompt, text, image or token."""
    chunks_ms: tuple[float, ...] = ()
    """Lengths of audio to time with ``bench``, the headline's first; empty: those of a clip."""
    macs: int | None = None
    """Multiply-accumulates of a call at most, where the content decides how many there are; None: they are counted.
    Such a graph takes ``audio`` and ``state``, and is timed on recordings where there are some."""


class Family(L.LightningModule):
    """Base of all model families.

    A family gives ``observe`` and ``results``; validation and test are built of them here, or it has Lightning's hooks
    as any module has. ``measured``, ``curves`` and ``details`` are filled at the last batch of each test set and go to
    the run's files as they are.
    """

    headline: ClassVar[tuple[str, ...]] = ()
    """Metric names shown first, such as ``test/auc_hard``."""

    def __init__(self) -> None:
        super().__init__()
        self.measured: dict[str, Measurement] = {}
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.details: dict[str, Any] = {}
        """JSON-able outcomes item by item, too many for the record: kept beside it in ``test.json``."""
        self.structure: Structure = {}
        """Layers that compression has rebuilt: what ``architecture`` alone would not give."""

    @classmethod
    def check_source(cls, arguments: Mapping[str, Any], data: Any) -> None:
        """Refuse, before anything is read or built, a data module that a model of these arguments cannot learn from;
        raises UserError."""

    def check_data(self, data: Any) -> None:
        """Refuse a data module that this model cannot read; raises UserError."""

    # Validation and test.

    def observe(self, batch: Batch) -> None:
        """Take a batch of validation or test data into the metrics."""
        raise NotImplementedError(f"{type(self).__name__} defines no observe()")

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        """What was observed since `forget`, each name behind ``prefix``; with 95 % intervals where asked."""
        return {}

    def test_curves(self) -> dict[str, dict[str, Any]]:
        """Curves of what was observed in a test, by a name within the test set."""
        return {}

    def test_details(self) -> Any:
        """JSON-able outcomes of a test item by item; None keeps nothing."""
        return None

    def forget(self) -> None:
        """Begin anew: every metric among the submodules is reset."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.observe(batch)

    def on_validation_epoch_end(self) -> None:
        shown = {name.replace("test/", "val/", 1) for name in self.headline}
        for name, found in self.results("val/", intervals=False).items():
            self.log(name, found.value, prog_bar=name in shown)
        self.forget()

    def on_test_start(self) -> None:
        self._test_names()

    def _test_names(self) -> list[str]:
        data, sets = self.trainer.datamodule, self.trainer.num_test_batches  # type: ignore[attr-defined]
        return names_of_sets(data, len(sets))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.observe(batch)
        # Test sets come one after the other; close each at its last batch.
        if batch_idx + 1 < self.trainer.num_test_batches[dataloader_idx]:
            return
        name = self._test_names()[dataloader_idx]
        found = self.results(f"test/{name}/" if name else "test/", intervals=True)
        self.measured.update(found)
        self.log_dict({key: value.value for key, value in found.items()}, add_dataloader_idx=False, batch_size=1)
        part = name or "test"
        self.curves.update({f"{part}/{key}" if key else part: curve for key, curve in self.test_curves().items()})
        if (details := self.test_details()) is not None:
            self.details[part] = details
        self.forget()

    @property
    def settled(self) -> bool:
        """Whether the epoch that was just trained may ship; one that may not competes for nothing."""
        return True

    # The deliverable.

    def architecture(self) -> dict[str, Any]:
        """JSON-able constructor arguments that rebuild this module without any other file."""
        raise NotImplementedError(f"{type(self).__name__} defines no architecture()")

    def export_spec(self) -> list[ExportGraph]:
        """The graphs to export, headline first."""
        raise NotImplementedError(f"{type(self).__name__} defines no export_spec()")

    def save_transformers(self, folder: Path) -> None:
        """Write the network as a folder that transformers reads; raises UserError for one that it could not."""
        raise NotImplementedError(f"{type(self).__name__} is no network of transformers")

    def context(self) -> dict[str, float | None]:
        """``past_ms``, ``future_ms`` and ``state_bytes`` per stream; None is unlimited.

        ``past_ms`` is the audio that an output frame sees up to the end of its own hop, windows of the front end
        included; ``future_ms`` what it sees beyond, the algorithmic latency. A language model reports its window as
        ``past_tokens`` instead."""
        return {"past_ms": None, "future_ms": None, "state_bytes": None}

    def rebuild(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Make anew, from training ``batches``, what was derived from weights that compression has changed since.

        Called once on the finalized model, before `calibrate`; a table of phonemes is such a thing.
        """

    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Fit what depends on the final weights (score weights, threshold) on validation batches.

        Returns the record's ``threshold`` entry: ``{"value": float, "target": str}`` or an empty mapping.
        """
        return {}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Scores (B,) by scorer name, the shipped one first; larger means a likelier match."""
        raise NotImplementedError(f"{type(self).__name__} defines no score()")


def names_of_sets(data: L.LightningDataModule | None, count: int) -> list[str]:
    """A name for each of ``count`` test sets of ``data``; a single one needs none. Raises UserError."""
    names = list(getattr(data, "test_names", [""]))
    if len(names) != count:
        raise UserError(
            f"{type(data).__name__}: test_names has {len(names)} ({', '.join(map(repr, names))}), test_dataloader() "
            f"gives {count} test sets; expected a name for each."
        )
    return names


@dataclass(frozen=True)
class SavedModel:
    """A finished model on disk: what to build it with, and its weights."""

    folder: Path
    init_args: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """Raises UserError when the file is missing or damaged."""
        path = self.folder / WEIGHTS
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read the weights '{path}': {error}") from error

    def misfit(self, error: RuntimeError, key: str = "init_from") -> UserError:
        """What to tell a user whose sizes differ from these weights, which argument ``key`` named."""
        return UserError(f"{key}: sizes differ from '{self.folder}': {str(error).splitlines()[-1].strip()}")


def read_model(source: str | Path, family: str, key: str) -> SavedModel:
    """The finished ``family`` in a run or export folder, for argument ``key``. Raises UserError if there is none."""
    folder = Path(source)
    folder = folder / EXPORT if (folder / EXPORT).is_dir() else folder
    try:
        description = json.loads((folder / ARCHITECTURE).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{key}: no finished model in '{source}' (expected export/model.json of a run)") from error
    found = str(description["class_path"]).rpartition(".")[2]
    if found != family:
        raise UserError(f"{key}: '{source}' holds a {found}, expected a {family}")
    if description.get("structure"):
        raise UserError(f"{key}: layers of '{source}' were folded or narrowed by compression; take the run before that")
    return SavedModel(folder, description["init_args"])
