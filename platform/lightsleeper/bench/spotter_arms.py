"""What `bench spotter --part accuracy` trains: the gated spotter, what it began as, and what else its compute buys.

All hear the same clips, kept in the cache, and are judged by the same streams; a seed sets the initial weights, the
order of the batches and the samples of the gates. The gated one begins with the ungated one of its seed.
"""

from collections.abc import Iterator, Sequence

from lightsleeper.bench import trainings as shared
from lightsleeper.bench.trainings import Arm, Group, Training

SAME = (
    "--data.seed=0",  # of the clips
    "--data.keep_clips=5",
    "--data.keep_streams=all",
    "--tracking.mode=disabled",
    "--run.threads=1",
)
QUICK = (
    "--data.train_sentences=120", "--data.vocabulary=8", "--data.val_speech_minutes=1", "--data.val_quiet_minutes=0.2",
    "--data.test_speech_minutes=2", "--data.test_quiet_minutes=0.5", "--data.keep_clips=1", "--trainer.max_epochs=2",
    "--run.parity_inputs=2",
)  # fmt: skip

UNGATED = Arm("ungated", "word_spotter", (), "conformer")
GATED = Arm("gated", "word_spotter_gated", (), "gated conformer", step=("spotter", ()))
SMALL = Arm("small", "word_spotter", (), "small conformer", ("overlays/word_spotter_small",))
BC_RESNET = Arm("bc_resnet", "word_spotter", (), "BC-ResNet", ("overlays/word_spotter_bcresnet",))

GROUPS = {
    group.name: group
    for group in (
        Group(
            "gates",
            "gates cost at most 0.01 of F1 and skip 97 % where nobody speaks; shrinking to the same average compute "
            "costs more",
            (UNGATED, GATED, SMALL),
            (("ungated", "gated"), ("small", "gated"), ("small", "ungated")),
        ),
        Group(
            "encoder",
            "the conformer finds more than the convolutional baseline, with fewer false alarms",
            (UNGATED, BC_RESNET),
            (("bc_resnet", "ungated"),),
        ),
    )
}


def trainings(groups: Sequence[str], seeds: int, quick: bool) -> Iterator[Training]:
    """Each training once, in the order in which claims become comparable."""
    return shared.trainings(GROUPS, groups, seeds, (*SAME, *QUICK) if quick else SAME)
