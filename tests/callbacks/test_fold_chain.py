"""Folding at an epoch, then pruning and clustering the folded network: in any written order, killed or not."""

import signal

import pytest
import yaml
from lightsleeper.tracking.record import read
from safetensors.torch import load_file
from tiny_runs import FAST, assert_equal_runs, last, prepare, start, stopped, write

pytest.importorskip("lightsleeper_callbacks.pdp")
pytest.importorskip("lightsleeper_callbacks.edkm")

CALLBACKS = {
    "cluster": {
        "class_path": "EDKMClustering",
        "init_args": {"bits": 3, "small_below": 0, "start": 0.6, "targets": ["net.3"]},
    },
    "prune": {
        "class_path": "PDPMasking",
        "init_args": {"sparsity": 0.5, "start": 0.5, "end": 0.7, "targets": ["net.1", "net.3"]},
    },
    "fold": {"class_path": "FoldOnExport", "init_args": {"at": 2}},
}


@pytest.fixture(autouse=True)
def _world(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path)


def test_pruned_and_clustered_after_the_fold_a_killed_run_resumes_bit_for_bit():
    path = write()
    content = yaml.safe_load(path.read_text())
    content["model"] = {"class_path": "tiny_rep.TinyRep"}
    content["callbacks"] = CALLBACKS
    path.write_text(yaml.safe_dump(content))
    whole = start(path, FAST, runs="whole")
    for step in (12, 17):
        assert stopped(f"step:{step}:kill", path, FAST) == -signal.SIGKILL
        assert_equal_runs(whole, start(path, FAST, resume=last()))
    weights = load_file(whole / "export" / "model.safetensors")
    assert sorted(weights) == ["net.1.bias", "net.1.weight", "net.3.bias", "net.3.weight", "net.7.bias", "net.7.weight",
                               "offset"]  # fmt: skip
    both = [weights[f"net.{layer}.weight"] for layer in (1, 3)]
    assert sum(int((weight == 0).sum()) for weight in both) == sum(weight.numel() for weight in both) // 2
    assert len(both[1].unique()) <= 8
    assert list(read(whole).compression) == ["fold", "prune", "cluster"]
