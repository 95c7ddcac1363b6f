"""What `bench spotter --part accuracy` trains: the gated spotter, what it began as, and what else its compute buys.

All hear the same clips, kept in the cache, and are judged by the same streams; a seed sets the initial weights, the
order of the batches and the samples of the gates. The gated one begins with the parent of its seed, and so has
been trained for longer: `ungated` is that same beginning trained on for as many epochs without gates, and what is
compared with it is trained for as many as both take together.
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

PARENT = Arm("parent", "word_spotter", (), "what both begin with")
STEP = ("spotter", ())
LONGER = ("--trainer.max_epochs=42",)  # the epochs of word_spotter and word_spotter_gated


def _gated(name: str, label: str, *overrides: str) -> Arm:
    return Arm(name, "word_spotter_gated", overrides, label, step=STEP)


def _small(dim: int) -> Arm:
    overrides = (f"--model.dim={dim}", *LONGER)
    return Arm(f"small_{dim}", "word_spotter", overrides, f"small conformer, width {dim}")


UNGATED = _gated("ungated", "conformer", "--model.gated=false")
GATED = _gated("gated", "gated conformer, penalty 1")
BC_RESNET = Arm("bc_resnet", "word_spotter", LONGER, "BC-ResNet", ("overlays/word_spotter_bcresnet",))

GROUPS = {
    group.name: group
    for group in (
        Group(
            "gates",
            "gates cost at most 0.01 of F1 and skip 97 % where nobody speaks; shrinking to the same average compute "
            "costs more",
            (PARENT, UNGATED, GATED, _small(48), _small(32)),
            (("ungated", "gated"), ("small_48", "gated"), ("small_32", "gated"), ("small_48", "ungated")),
        ),
        Group(
            "content",
            "gates skip more where nobody speaks once they have heard as much of that as of speech",
            (GATED, _gated("gated_quiet", "gated, half of the clips without speech", "--data.noise_share=0.5")),
            (("gated", "gated_quiet"),),
        ),
        Group(
            "penalty",
            "what the weight of open gates trades",
            (
                _gated("gated_0.1", "gated, penalty 0.1", "--model.gate_penalty=0.1"),
                _gated("gated_0.3", "gated, penalty 0.3", "--model.gate_penalty=0.3"),
                GATED,
                _gated("gated_3", "gated, penalty 3", "--model.gate_penalty=3.0"),
            ),
            (("gated_0.1", "gated"), ("gated_0.3", "gated"), ("gated_3", "gated")),
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
