"""Under what a benchmark was measured: every result carries it, and every table prints it first."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def conditions(threads: int, **more: Any) -> dict[str, Any]:
    """Threads, versions and machine, and what else decides the numbers."""
    return {
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **more,
    }


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
