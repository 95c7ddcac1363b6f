"""The seed of a data module that was given none: the run's."""

import os


def run_seed(seed: int | None = None) -> int:
    """``seed``, or the one that ``seed_everything`` set for this process, or 0."""
    if seed is not None:
        return seed
    return int(os.environ.get("PL_GLOBAL_SEED") or 0)
