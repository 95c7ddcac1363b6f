"""Scores measured against other texts of the same audio: how far a keyword stands out among what nobody typed.

The known remedy for scores that depend on the keyword is to normalise them by the scores of a cohort (T-norm,
Auckenthaler et al., Digital Signal Processing 2000; there speakers, here texts). An option, off unless asked for: it
was measured here, and made results worse (docs/keyword_spotting.md). A normalised score has a threshold of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.confusables import Confuser
from lightsleeper.deploy.keyword import Keyword
from lightsleeper.deploy.many_keywords import Enrolled, ManyKeywords

SIZE = 16
LEAST_SPREAD = 0.3  # of a cohort's scores; matchers' scores spread by 1 to 3
LOWEST = -50.0  # scores of texts that do not fit are about -1e4: one of them would be all of the mean


@dataclass(frozen=True)
class Cohort:
    """Other texts for each row of enrolled keywords."""

    enrolled: Enrolled
    """``size`` rows for each row of the keywords, in their order."""
    size: int

    @classmethod
    def confusables(cls, matcher: ManyKeywords, keywords: Enrolled, size: int = SIZE, seed: int = 0) -> "Cohort":
        """``size`` confusable keywords of each pronunciation (`data.confusables`)."""
        confuser, rng = Confuser(), np.random.default_rng(seed)
        made: list[Sequence[Keyword]] = []
        for keyword in keywords.keywords:
            phones, words = confuser.draw(
                keyword.phones[None].repeat(size, 0), keyword.words[None].repeat(size, 0), rng
            )
            made += [[Keyword("", p[p > 0], w[p > 0], keyword.spelling)] for p, w in zip(phones, words, strict=True)]
        return cls(matcher.enroll(made), size)

    def measured(
        self,
        matcher: ManyKeywords,
        frames: Mapping[str, NDArray],
        scores: NDArray[np.floating],
        rows: NDArray[np.intp],
    ) -> NDArray[np.float32]:
        """``scores`` (n,) of the keywords' ``rows`` (n,) on ``frames``, in standard deviations of their cohort's scores
        above its mean."""
        others = (rows[:, None] * self.size + np.arange(self.size)).ravel()
        found = matcher.match(frames, self.enrolled, rows=others)["score"]
        cohort = np.maximum(found.reshape(len(rows), self.size), LOWEST)
        above = np.maximum(scores, LOWEST) - cohort.mean(1)
        return (above / np.maximum(cohort.std(1), LEAST_SPREAD)).astype(np.float32)
