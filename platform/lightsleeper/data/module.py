"""What the platform asks of data beyond Lightning's hooks.

`DataModule` is the base of what we ship. A user's own need not be one: what a plain LightningDataModule lacks is the
default here, by `asked`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lightsleeper.data.audio import SAMPLE_RATE


class DataModule(L.LightningDataModule):
    """Base of all data modules: a subclass gives ``load`` and the dataloaders, and what else it can tell.

    Models may look for more, each for its own: ``words`` and ``phrase_phones`` (what is to be told apart or detected),
    ``classes``, ``vocab_size``, ``context_tokens``, ``pad_token_id``.
    """

    sample_rate = SAMPLE_RATE
    """Of ``audio`` in batches, Hz."""
    evaluate_only = False
    """Whether all of it is test data."""
    test_names: Sequence[str] = ("",)
    """Of the test sets, in the order of ``test_dataloader``, known after ``setup``; "" stays out of metric names."""
    _loaded = False

    def check(self) -> None:
        """Raise UserError for what is certain to fail and known in a moment, such as a missing folder or package.

        It reads no recordings and writes nothing. `lightning validate` does not call it: a recipe is valid without its
        data.
        """

    def load(self) -> None:
        """Find, build or read what the dataloaders need. Called once, by whichever hook of Lightning comes first."""

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:  # every stage finds the same
        if not self._loaded:
            self.load()
            self._loaded = True

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: ``hash`` (a resumed run refuses another), ``protocol``, ``counts`` by part,
        ``overlap`` of parts."""
        return {}

    def recording(self, stream: int) -> Path | None:
        """The file behind a stream that is one recording of a keyword: outcomes of two detectors are paired by it."""
        return None

    def shortcuts(self) -> dict[str, dict[str, float]]:
        """By part, the AUC of scorers that hear nothing: how far labels can be told without listening."""
        return {}

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer of a text corpus beside an exported network of transformers."""


_PLAIN = DataModule()


def asked(data: Any, name: str) -> Any:
    """Attribute ``name`` of ``data``; where it has none, the default of `DataModule`."""
    return getattr(data, name, getattr(_PLAIN, name))
