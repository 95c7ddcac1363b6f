"""Arguments of data modules that are out of range, refused in one line that names the argument and the value it got."""

from lightsleeper.errors import UserError


def at_least(least: int, **values: int | None) -> None:
    """Raise UserError for a value below ``least``; None passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"{name} must be at least {least}, got {value}.")


def between(low: float, high: float, **values: float) -> None:
    """Raise UserError for a value that is not above ``low`` and below ``high``."""
    for name, value in values.items():
        if not low < value < high:
            raise UserError(f"{name} must lie between {low:g} and {high:g}, got {value}.")
