"""The one exception a user sees. The command line prints its text as one line and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user or of the machine: what was given, what was expected, what to do."""


class EveryRunError(UserError):
    """One that the next run would meet too, such as a full disk: a sweep stops there and does not fail every trial."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The nearest of ``options`` as a sentence with a leading blank, or all of them when none is near."""
    known = sorted(set(options))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Valid: {', '.join(known)}." if known else ""
