import io
import os
import signal

import pytest
import torch
from lightsleeper.stages.console import stoppable


class Stopped(io.BytesIO):
    """A file in the middle of whose second write the process is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, content: object) -> int:
        self.writes += 1
        if self.writes == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(content)  # type: ignore[arg-type]


def test_a_stop_inside_torch_save_is_a_stop_and_no_failure():
    file = Stopped()
    with pytest.raises(KeyboardInterrupt) as found, stoppable():
        torch.save({"weights": torch.randn(10_000)}, file)
    assert file.writes >= 2
    assert found.value.__cause__ is None or isinstance(found.value.__cause__, RuntimeError)


@pytest.mark.parametrize("later", [SystemExit(1), RuntimeError("unexpected pos 64 vs 0"), OSError(28, "full")])
def test_an_error_while_stopping_is_a_stop(later: BaseException):
    def fail_when_stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise later

    with pytest.raises(KeyboardInterrupt) as found, stoppable():
        fail_when_stopped()
    assert found.value.__cause__ is later


def test_other_errors_are_what_they_were():
    with pytest.raises(ValueError, match="as it was"), stoppable():
        raise ValueError("as it was")
    with pytest.raises(SystemExit), stoppable():
        raise SystemExit(2)
