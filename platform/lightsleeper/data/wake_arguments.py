"""Arguments of `WakeWords` that do not go together, refused before anything is read."""

from collections.abc import Mapping
from typing import Any

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.ranges import at_least
from lightsleeper.data.streams import HOP
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.errors import UserError

_COUNTS = (
    *("train_keywords", "train_near", "train_speech", "held_out_voices", "validation_voices", "folds"),
    *("batch_size", "near_phrases"),
)
_MAYBE = ("build_workers", "clips_per_epoch")  # None and 0 leave it to us
_AMOUNTS = ("val_keywords", "test_keywords", "val_hours", "test_hours", "near_per_hour", "workers", "keep_clips")
_SHARES = ("positive_share", "near_share", "noise_share", "synthetic_share")
_RANGES = ("snr_db", "gain_db", "stream_snr_db")


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise UserError for the first of the constructor's arguments that is out of range."""
    at_least(1, **{name: given[name] for name in _COUNTS}, **{name: given[name] or None for name in _MAYBE})
    for name in _AMOUNTS:
        if given[name] < 0:
            raise UserError(f"{name} must not be negative, got {given[name]}.")
    _check_shares(given)
    if not 0.5 <= given["clip_seconds"] <= 30:
        raise UserError(f"clip_seconds must lie between 0.5 and 30, got {given['clip_seconds']}.")
    for name in _RANGES:
        if given[name][0] > given[name][1]:
            raise UserError(f"{name} must be a lowest and a highest value, got {list(given[name])}.")
    if given["held_out_voices"] + given["validation_voices"] >= len(VARIANTS):
        raise UserError(
            f"held_out_voices {given['held_out_voices']} and validation_voices {given['validation_voices']} leave "
            f"none of the {len(VARIANTS)} voices for training."
        )
    chunk = round(given["chunk_seconds"] * SAMPLE_RATE)
    if chunk < HOP or chunk % HOP:
        raise UserError(f"chunk_seconds must be a multiple of 0.02, got {given['chunk_seconds']}.")
    _check_sources(given)


def _check_shares(given: Mapping[str, Any]) -> None:
    for name in _SHARES:
        if not 0 <= given[name] <= 1:
            raise UserError(f"{name} is {given[name]}; it must lie between 0 and 1.")
    positive, near, noise = given["positive_share"], given["near_share"], given["noise_share"]
    if not 0 < positive < 1 or positive + near + noise > 1:
        raise UserError(
            f"positive_share {positive}, near_share {near} and noise_share {noise} must leave some clips of each "
            "kind: positive_share within 0 and 1, all three 1 together at most."
        )
    if not 0 < given["val_fraction"] < 1:
        raise UserError(f"val_fraction is {given['val_fraction']}; it must lie between 0 and 1.")
    fold, folds = given["fold"], given["folds"]
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"fold is {fold}; with folds {folds} (2 or more) it goes from 0 to folds - 1.")


def _check_sources(given: Mapping[str, Any]) -> None:
    recorded, synthesis, evaluate_only = given["path"] is not None, given["synthesis"], given["evaluate_only"]
    if not recorded and (given["negatives"] or evaluate_only or not synthesis):
        raise UserError("negatives, evaluate_only and synthesis: false need recordings of the phrase in path.")
    if evaluate_only and not synthesis:
        raise UserError("evaluate_only leaves nothing to train on without synthesis.")
    for name in ("val_hours", "test_hours"):
        if not recorded and given[name] <= 0:
            raise UserError(f"{name} must be above 0 where there are no recordings.")
