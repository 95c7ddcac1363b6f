from collections.abc import Iterator

import pytest
import tiny_prefill as tiny
from lightsleeper.generation.ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Four processes; their start takes longer than all they do."""
    with Ranks(tiny.llama(), 4, timeout_s=100) as started:
        yield started
