"""lightsleeper: how much accuracy for how many milliseconds, kilobytes and frames of context."""

__version__ = "0.1.0"
