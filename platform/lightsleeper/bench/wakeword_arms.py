"""What `bench wakeword --part accuracy` trains: ways of training side by side, each with every seed.

All of them hear the same clips (five epochs of them, kept in the cache) and are judged by the same streams; a seed sets
the initial weights, the order of the batches, and gain, warp and masks of each clip. The order of the trainings is that
of the claims, and within one the ways take turns: whatever is finished can be compared.
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
    "--data.train_keywords=80", "--data.train_near=60", "--data.train_speech=150", "--data.val_keywords=20",
    "--data.val_hours=0.1", "--data.test_keywords=40", "--data.test_hours=0.2", "--data.near_phrases=20",
    "--data.keep_clips=1", "--trainer.max_epochs=2", "--run.parity_inputs=4",
)  # fmt: skip


def _cnn(name: str, label: str, *overrides: str) -> Arm:
    return Arm(name, "wakeword_repcnn", overrides, label)


def _heimdal(name: str, label: str, *overrides: str) -> Arm:
    return Arm(name, "wakeword_heimdal", overrides, label)


def _chain(name: str, label: str, training: str) -> Arm:
    size = ("--model.past_frames=12", "--model.width=23")  # as many parameters as HEiMDaL
    return Arm(name, "wakeword_dnn_hmm", (*size, f"--model.training={training}"), label)


PLAIN = _cnn("plain", "plain CNN", "--model.branches=0")
PLAIN_PHONES = _cnn("plain_phones", "plain CNN, phones too", "--model.branches=0", "--model.phone_weight=1.0")
REPCNN = _cnn("repcnn", "RepCNN, 4 branches", "--model.branches=4")
REPCNN_PHONES = _cnn("repcnn_phones", "RepCNN, phones too", "--model.branches=4", "--model.phone_weight=1.0")
HEIMDAL = _heimdal("heimdal", "HEiMDaL, labels C2 (coverage), offset weight 0.1")
REPCNN_16 = _cnn("repcnn_16", "RepCNN, 4 branches, width 16", "--model.branches=4", "--model.width=16")
BCRESNET = Arm("bcresnet_1", "wakeword_bcresnet", ("--model.tau=1.0",), "BC-ResNet, tau 1")
BCRESNET_WIDER = Arm("bcresnet_1.5", "wakeword_bcresnet", ("--model.tau=1.5",), "BC-ResNet, tau 1.5")

GROUPS = {
    group.name: group
    for group in (
        Group(
            "branches",
            "RepCNN misses fewer keywords than the plain CNN of the same folded architecture (paper: 43 % fewer)",
            (PLAIN, REPCNN),
            (("plain", "repcnn"),),
        ),
        Group(
            "localisation",
            "HEiMDaL misses fewer than a DNN-HMM of its size and says as well where they began (paper: 73 % fewer)",
            (
                HEIMDAL,
                _chain("dnn_hmm_end_to_end", "DNN-HMM, end to end", "end_to_end"),
                _chain("dnn_hmm_frames", "DNN-HMM, frames", "frames"),
            ),
            (
                ("dnn_hmm_end_to_end", "heimdal"),
                ("dnn_hmm_frames", "heimdal"),
                ("dnn_hmm_frames", "dnn_hmm_end_to_end"),
            ),
        ),
        Group(
            "bcresnet",
            "RepCNN is as accurate as BC-ResNet; time and memory are in --part speed",
            (REPCNN, BCRESNET, REPCNN_16, BCRESNET_WIDER),
            (("bcresnet_1", "repcnn"), ("bcresnet_1", "repcnn_16"), ("bcresnet_1.5", "repcnn")),
        ),
        Group(
            "phones",
            "the phones as a second thing to learn (ours) leave fewer keywords missed",
            (PLAIN, PLAIN_PHONES),
            (("plain", "plain_phones"),),
        ),
        Group(
            "branches_phones",
            "the claim of branches again, where both networks learn the phones too, and that of phones with branches",
            (PLAIN_PHONES, REPCNN_PHONES, REPCNN),
            (("plain_phones", "repcnn_phones"), ("repcnn", "repcnn_phones")),
        ),
        Group(
            "narrow",
            "the claim of branches at half the width, where a plain network has less to find",
            (
                _cnn("plain_16", "plain CNN, width 16", "--model.branches=0", "--model.width=16"),
                REPCNN_16,
            ),
            (("plain_16", "repcnn_16"),),
        ),
        Group(
            "ablation",
            "what of RepCNN's branches counts",
            (
                PLAIN,
                _cnn("repcnn_1", "1 branch", "--model.branches=1"),
                _cnn("repcnn_2", "2 branches", "--model.branches=2"),
                REPCNN,
                _cnn("repcnn_8", "8 branches", "--model.branches=8"),
                _cnn("repcnn_no_scale", "without scale", "--model.scale=false"),
                _cnn("repcnn_no_skip", "without skip", "--model.skip=false"),
                _cnn("repcnn_norm_sum", "one norm after the sum", "--model.norms=sum"),
                _cnn("repcnn_smaller", "with kernels 3 and 5", "--model.smaller=[3, 5]"),
                _cnn("repcnn_hardest", "hard negatives", "--model.hardest=16"),
                _cnn("plain_hardest", "plain, hard negatives", "--model.branches=0", "--model.hardest=16"),
            ),
            tuple(
                ("plain", name)
                for name in ("repcnn_1", "repcnn_2", "repcnn", "repcnn_8", "repcnn_norm_sum", "plain_hardest")
            )
            + tuple(
                ("repcnn", name) for name in ("repcnn_no_scale", "repcnn_no_skip", "repcnn_smaller", "repcnn_hardest")
            ),
        ),
        Group(
            "labels",
            "which frames HEiMDaL should learn from, and how much the offset may weigh",
            (
                HEIMDAL,
                _heimdal("heimdal_end", "C1 (behind the end)", "--model.labels=end"),
                _heimdal("heimdal_iou", "C3 (IoU)", "--model.labels=iou"),
                _heimdal("heimdal_max_pool", "max-pooling, no alignment", "--model.labels=max_pool"),
                _heimdal("heimdal_no_offset", "no offset output", "--model.offset=false"),
                _heimdal("heimdal_offset_1", "offset weight 1", "--model.offset_weight=1.0"),
                _heimdal("heimdal_offset_10", "offset weight 10", "--model.offset_weight=10.0"),
            ),
            tuple(
                ("heimdal", f"heimdal_{name}")
                for name in ("end", "iou", "max_pool", "no_offset", "offset_1", "offset_10")
            ),
        ),
    )
}


def trainings(groups: Sequence[str], seeds: int, quick: bool) -> Iterator[Training]:
    """Each training once, in the order in which claims become comparable; pairs claim fewer missed keywords."""
    return shared.trainings(GROUPS, groups, seeds, (*SAME, *QUICK) if quick else SAME)
