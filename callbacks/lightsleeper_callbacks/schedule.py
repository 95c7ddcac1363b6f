"""When: pure functions of the share of a training that is done."""


def ramp(progress: float, start: float, end: float) -> float:
    """0 up to ``start``, rising linearly to 1 at ``end`` and 1 from there on; all are shares of the training."""
    if progress >= end:
        return 1.0
    return 0.0 if progress <= start else (progress - start) / (end - start)


def cubic(done: float) -> float:
    """Share of the target reached when ``done`` of the ramp is over: fast at first (Zhu and Gupta, equation 1)."""
    return 1 - (1 - done) ** 3


def check_ramp(start: float, end: float) -> None:
    """Raise ValueError unless 0 <= start <= end < 1: the weights need some training at their target."""
    if not 0 <= start <= end < 1:
        raise ValueError(f"start and end are shares of the training, 0 <= start <= end < 1; got {start} and {end}")
