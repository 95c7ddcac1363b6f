import logging
import warnings

import pytest
from lightsleeper.quiet import quiet


@pytest.mark.parametrize("loggers", [(), ("loud", "louder")])
def test_warnings_are_silenced_within_and_told_again_afterwards(loggers, caplog, recwarn):
    logger = logging.getLogger("loud")

    def speak() -> None:
        logger.warning("logged")
        warnings.warn("warned", stacklevel=1)

    def fail() -> None:
        with quiet(*loggers):
            speak()
            logger.error("an error")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert caplog.messages == ["an error"]
    assert not recwarn
    speak()
    assert caplog.messages == ["an error", "logged"]
    assert [str(found.message) for found in recwarn] == ["warned"]
