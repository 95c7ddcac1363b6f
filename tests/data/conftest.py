from collections.abc import Iterator
from typing import Any

import pytest
from lightsleeper.data.spoken_phrases import SpokenPhrases

TINY: dict[str, Any] = {
    "train_phrases": 160,
    "vocabulary": 500,
    "episodes": 6,
    "validation_episodes": 3,
    "held_out_voices": 8,
    "batch_size": 16,
    "eval_batch_size": 32,
}


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def spoken(corpus_cache: None) -> SpokenPhrases:
    """A tiny corpus, built once for all tests."""
    data = SpokenPhrases(**TINY, seed=5)
    data.setup("fit")
    return data
