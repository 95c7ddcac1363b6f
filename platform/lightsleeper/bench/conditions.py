"""Under what a benchmark was measured: every result carries it, and every table prints it first."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lightsleeper.errors import UserError


def conditions(threads: int, **more: Any) -> dict[str, Any]:
    """Threads, versions and machine, and what else decides the numbers."""
    return {
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **more,
    }


def chosen_parts(bench: str, given: Iterable[str] | None, parts: Sequence[str]) -> list[str]:
    """The parts that were asked for, else all. Raises UserError for one that there is not."""
    chosen = list(given or ())
    if unknown := [part for part in chosen if part not in parts]:
        raise UserError(f"bench {bench} has no part '{unknown[0]}'; expected {' or '.join(parts)}.")
    return chosen or list(parts)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
