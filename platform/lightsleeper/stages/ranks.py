"""Several processes, one run. Rank 0 owns the folder, the record and all stages; the others only train along.

Under `strategy: ddp` Lightning starts the other ranks by repeating the command line, so each of them arrives in
`experiment.run` again: it learns from the environment which run it belongs to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

_HASH, _FOLDER = "LIGHTSLEEPER_RANK_HASH", "LIGHTSLEEPER_RANK_FOLDER"


def is_follower() -> bool:
    """Whether this process is not rank 0 (torchrun, SLURM or Lightning's own launcher said so)."""
    return (getattr(rank_zero_only, "rank", 0) or 0) > 0


def followed() -> tuple[str, Path] | None:
    """(config hash, folder) of the run this rank trains along with; None when rank 0 did not say."""
    if _HASH not in os.environ:
        return None
    return os.environ[_HASH], Path(os.environ[_FOLDER])


@contextmanager
def leading(config_hash: str, folder: Path) -> Iterator[None]:
    """Tell the ranks launched inside which run this is; afterwards the process stands alone again.

    Without that, metrics of the test stage would wait for ranks that have ended.
    """
    before = dict(os.environ)
    os.environ.update({_HASH: config_hash, _FOLDER: str(folder.absolute())})
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
