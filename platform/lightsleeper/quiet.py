"""Other libraries' warnings, silenced where they tell a user nothing. Who calls it says why."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """No Python warnings, and nothing below errors from ``loggers``; with none named, from any."""
    found = [logging.getLogger(name) for name in loggers]
    levels, before = [logger.level for logger in found], logging.root.manager.disable
    for logger in found:
        logger.setLevel(logging.ERROR)
    if not found:
        logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
