"""What `bench phoneme` trains: the family as published and with our verifier, and the families it is compared with.

A seed is that of every step, so there is one encoder a seed, and all families but CMCD, which has none, share it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightsleeper.bench.trainings import FIRST_SEED, Arm, Training

SAME = ("--tracking.mode=disabled",)
QUICK_DATA = (
    "--data.train_phrases=400", "--data.vocabulary=1500", "--data.episodes=8", "--data.validation_episodes=8",
)  # fmt: skip
QUICK_KEYWORDS = (
    "--data.phrases=32", "--data.recordings_per_phrase=4", "--data.recordings=4", "--data.keywords=8",
)  # fmt: skip
QUICK = ("--trainer.max_epochs=1", "--run.parity_inputs=2")
QUICK_ENCODER = ("--model.dim=48", "--model.blocks=2", "--model.warmup_steps=5")
STEPS = {  # recipe -> its required steps, by their place on the command line
    "kws_phoneme": {"requires.vectors.set.": "kws_p2v", "requires.vectors.set.requires.encoder.set.": "kws_encoder"},
    "kws_dsp": {"requires.encoder.set.": "kws_encoder"},
    "kws_cmcd": {},
}

PUBLISHED = Arm("published", "kws_phoneme", (), "P2V + GRU")
UNCONFUSED = Arm("unconfused", "kws_phoneme", ("--data.confusables=false",), "  no confusables")
ALIGNED = Arm("aligned", "kws_phoneme", (), "P2V + aligned", ("overlays/phoneme_aligned",))
EDITS = Arm("edits", "kws_phoneme", (), "P2V + edits", ("overlays/phoneme_edits",))
DSP = Arm("dsp", "kws_dsp", (), "DSP")
CMCD = Arm("cmcd", "kws_cmcd", (), "CMCD")


@dataclass(frozen=True)
class Entrant:
    """One score of one arm."""

    name: str
    arm: str
    scorer: str
    """What its metrics begin with: "" is the score that ships."""
    label: str


ARMS = {arm.name: arm for arm in (PUBLISHED, EDITS, ALIGNED, DSP, UNCONFUSED, CMCD)}
ENTRANTS = (
    Entrant("verifier", "published", "verifier_", "P2V + GRU (published)"),
    Entrant("unconfused", "unconfused", "verifier_", "  without confusables"),
    Entrant("fused", "published", "", "  fused with cosine and CTC"),
    Entrant("edits", "edits", "verifier_", "edit verifier (ours)"),
    Entrant("edits_fused", "edits", "", "  and CTC, equally weighted"),
    Entrant("aligned", "aligned", "verifier_", "aligned verifier (ours)"),
    Entrant("aligned_fused", "aligned", "", "  fused with cosine and CTC"),
    Entrant("dsp", "dsp", "dsp_", "DSP (its matcher alone)"),
    Entrant("dsp_fused", "dsp", "", "  fused with CTC"),
    Entrant("cmcd", "cmcd", "", "CMCD"),
    Entrant("cosine", "published", "cosine_", "mean cosine, untrained"),
    Entrant("ctc", "published", "ctc_", "CTC likelihood, untrained"),
)
PAIRS = (  # the second is claimed to be better than the first
    ("dsp", "verifier"), ("cmcd", "verifier"), ("ctc", "verifier"), ("unconfused", "verifier"),
    ("verifier", "edits"), ("aligned", "edits"), ("ctc", "edits"), ("ctc", "edits_fused"), ("dsp_fused", "edits_fused"),
    ("ctc", "aligned"),
)  # fmt: skip


def trainings(names: Sequence[str], seeds: int, quick: bool) -> Iterator[Training]:
    """Each training once; arms take turns, so whatever is finished can be compared."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for name in names:
            arm = ARMS[name]
            yield Training(arm, seed, settings(arm, seed, quick))


def settings(arm: Arm, seed: int, quick: bool) -> tuple[str, ...]:
    """All overrides of an arm, those of its required steps among them."""
    places = {"": arm.recipe, **STEPS[arm.recipe]}
    found = []
    for place, recipe in places.items():
        small = _quick(recipe, arm is not EDITS) if quick else ()
        own = [*SAME, f"--seed_everything={seed}", *small]
        found += [f"--{place}{entry.removeprefix('--')}" for entry in own]
    return (*found, *arm.overrides)


def _quick(recipe: str, batches_of_keywords: bool) -> tuple[str, ...]:
    keywords = recipe == "kws_phoneme" and batches_of_keywords
    size = QUICK_KEYWORDS if keywords else ("--data.batch_size=32",)
    return (*QUICK, *QUICK_DATA, *size, *(QUICK_ENCODER if recipe == "kws_encoder" else ()))
