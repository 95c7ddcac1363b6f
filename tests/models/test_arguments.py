"""Values that no model can be built or trained with are refused at construction, by name."""

from typing import Any

import pytest
from lightsleeper.models.family import Family
from lightsleeper.models.kws_cmcd import KeywordCMCD
from lightsleeper.models.kws_dsp import KeywordDSP
from lightsleeper.models.kws_encoder import PhonemeCTC
from lightsleeper.models.kws_p2v import PhonemeVectors
from lightsleeper.models.kws_phoneme import KeywordPhoneme
from models.batches import TINY_ENCODER

NAN, INF = float("nan"), float("inf")
RATE: dict[str, list[Any]] = {"lr": [0.0, -1e-3, NAN, INF], "warmup_steps": [-1]}
WRONG: dict[type[Family], dict[str, list[Any]]] = {
    PhonemeCTC: {
        **RATE,
        "n_mels": [0, -1, 1],
        "dim": [0, -4],
        "blocks": [0],
        "heads": [0, -2],
        "kernel": [0, -1],
        "expansion": [0],
        "past_frames": [-1],
        "future_frames": [-1],
        "dropout": [-0.1, 1.0, 2.0, NAN],
        "warp": [-0.1, 1.0, NAN],
        "noise": [-0.1, 1.1, NAN],
        "masks": [-1],
        "weight_decay": [-0.1, NAN],
    },
    KeywordDSP: {
        **RATE,
        "dim": [0, -3],
        "projector_layers": [0, 3],
        "margin_positive": [-0.1, NAN],
        "margin_negative": [-1.0, INF],
        "easy_negatives": [-1],
        "weight_decay": [-0.1],
    },
    PhonemeVectors: {"exact_clips": [0, -1]},
    KeywordPhoneme: {
        **RATE,
        "width": [0, -3],
        "dropout": [-0.1, 1.0, NAN],
        "easy_negatives": [-1],
        "weight_decay": [-0.1],
    },
    KeywordCMCD: {
        **RATE,
        "n_mels": [0, 1],
        "dim": [0, -3],
        "warp": [1.5],
        "easy_negatives": [-1],
        "matching_weight": [-0.1, NAN],
        "denoising_weight": [-0.1],
        "focal_from": [-0.1, 1.1, NAN],
    },
}
REST: dict[type[Family], dict[str, Any]] = {
    PhonemeCTC: TINY_ENCODER,
    KeywordDSP: {"encoder": TINY_ENCODER},
    PhonemeVectors: {"encoder": TINY_ENCODER},
    KeywordPhoneme: {"vectors": {"encoder": TINY_ENCODER}},
}


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [(family, name, value) for family, wrong in WRONG.items() for name, values in wrong.items() for value in values],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_a_senseless_value_is_refused_by_name(family: type[Family], name: str, value: Any):
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got {value}$"):
        family(**{**REST.get(family, {}), name: value})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dim": 33, "heads": 3}, "dim must be even"),
        ({"dim": 33, "heads": 2}, "dim 33 is not a multiple of heads 2"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"n_mels": 6, "subsampling": "conv2d"}, "conv2d needs n_mels of 7 or more; got 6"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(arguments: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        PhonemeCTC(**{**TINY_ENCODER, **arguments})


@pytest.mark.parametrize(
    ("encoder", "expected"), [({"dim": 0}, "^encoder: dim must be 1"), ({"dmi": 8}, "^encoder: .*'dmi'")]
)
def test_a_mistake_in_the_encoders_sizes_is_told_as_the_encoders(encoder: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        KeywordDSP(encoder)


def test_a_baseline_has_no_graph_to_export():
    from lightsleeper.errors import UserError

    model = KeywordDSP(TINY_ENCODER, dim=8, partition="equal")
    with pytest.raises(UserError, match="export needs partition: dsp; 'equal' is a baseline"):
        model.export_spec()
