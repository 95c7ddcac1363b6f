"""A metric's name says what it is, which way is better and in what unit, for families nobody has seen too."""

import pytest
from lightsleeper.dashboard.quantities import quantity


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("test/auc_hard", "AUC (hard)", "higher"),
        ("test/map_faces1", "mAP (1 face)", "higher"),
        ("test/map_faces3", "mAP (3 faces)", "higher"),
        ("test/auc_mouthing", "AUC (mouthing)", "higher"),
        ("test/unseen_words/auc_hard", "AUC (hard, unseen words)", "higher"),
        ("test/unseen_words/dsp_eer_easy_w1", "EER (dsp easy, 1 word, unseen words)", "lower"),
        ("val/eer_hard", "EER (hard, validation)", "lower"),
        ("test/macro_accuracy", "Accuracy (macro)", "higher"),
        ("test/recall_stop", "Recall (stop)", "higher"),
        ("test/bits_per_byte", "Bits per byte", "lower"),
        ("test/perplexity", "Perplexity", "lower"),
        ("test/choices/accuracy", "Accuracy (choices)", "higher"),
        ("test/choices/accuracy_per_byte", "Accuracy by likelihood per byte (choices)", "higher"),
        ("test/choices/length_accuracy", "Accuracy (length, choices)", "higher"),
        ("test/choices/gain_over_majority", "Gain (over majority, choices)", "higher"),
        ("test/choices/mcnemar_majority", "McNemar's p (majority, choices)", "lower"),
        ("test/loss", "Loss", "lower"),
        ("train/loss", "Loss (training)", "lower"),
        ("val/per", "PER (validation)", "lower"),
        ("test/phone_error_rate", "Phone error rate", "lower"),
        ("test/frr_at_1_fah", "FRR (at 1 fah)", "lower"),
        ("test/fa_per_hour", "False alarms per hour", "lower"),
        ("test/delay_ms", "Delay", "lower"),
        ("test/recall_at_1_fa_per_hour", "Recall (at 1 fa per hour)", "higher"),
        ("test/f1", "F1", "higher"),
        ("test/f1_strict", "F1 (strict)", "higher"),
        ("test/f1_speech", "F1 (speech)", "higher"),
        ("test/mean_iou", "IoU (mean)", "higher"),
        ("test/mtwv", "MTWV", "higher"),
        ("test/fa_per_second", "False alarms per second", "lower"),
        ("test/fa_per_hour_noise", "False alarms per hour (noise)", "lower"),
        ("test/skipped", "MACs skipped", "higher"),
        ("test/skipped_silence", "MACs skipped (silence)", "higher"),
        ("test/whatever", "Whatever", None),
        ("test/permutation", "Permutation", None),
        ("Pesq", "Pesq", None),
    ],
)
def test_words_of_a_name_tell_label_and_direction(name: str, label: str, better: str | None):
    found = quantity(name)
    assert (found.label, found.better, found.kind) == (label, better, "quality")


def test_a_sweep_or_a_monitor_tells_the_direction_of_a_metric_nobody_knows():
    assert quantity("test/whatever", {"val/whatever": "lower"}).better == "lower"
    assert quantity("val/whatever", {"val/whatever": "higher"}).better == "higher"
    assert quantity("val/loss", {"val/loss": "higher"}).better == "higher"


@pytest.mark.parametrize(
    ("name", "label", "unit", "kind", "machine"),
    [
        ("latency.p50_ms", "Latency, median", "ms", "cost", True),
        ("artifact.bytes", "Exported file", "B", "cost", False),
        ("artifact.packed.safetensors.gzip_bytes", "Exported packed.safetensors, gzipped", "B", "cost", False),
        ("size.macs", "Multiply-accumulates", "", "cost", False),
        ("context.past_ms", "Context, past", "ms", "context", False),
        ("compress.sparsity", "Sparsity of pruned weights", "", "compression", False),
        ("compress.my_own_bytes", "My own bytes", "B", "compression", False),
        ("seconds.export", "Time of export", "s", "time", True),
        ("context.my_delay_ms", "My delay ms", "ms", "context", False),
    ],
)
def test_costs_have_units(name: str, label: str, unit: str, kind: str, machine: bool):
    found = quantity(name)
    assert (found.label, found.unit, found.kind, found.machine) == (label, unit, kind, machine)


@pytest.mark.parametrize("name", ["", "/", "test/", ".", "latency.", "artifact.", "a.b/c_d", "test/__", "<script>"])
def test_any_name_has_a_label(name: str):
    assert isinstance(quantity(name).label, str)
