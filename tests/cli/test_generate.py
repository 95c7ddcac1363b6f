"""Text out of the packed file of a run."""

import shutil
from pathlib import Path

import pytest
from tiny_hosts import lm_recipe
from tiny_runs import prepare, start

CLUSTER = {"cluster": {"class_path": "EDKMClustering", "init_args": {"bits": 3, "small_below": 0}}}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    prepare(monkeypatch, tmp_path)
    sections = {"callbacks": CLUSTER, "run": {"formats": ["packed"], "stages": ["fit", "finalize", "export"]}}
    folder = start(lm_recipe(Path("tiny.yaml"), "CausalLM", **sections))
    capsys.readouterr()
    return folder


def test_a_run_continues_a_text_and_its_file_alone_with_a_tokenizer_does_the_same(cli, run: Path, tmp_path: Path):
    done = cli("generate", "last", "--prompt", "def é", "--new-tokens", "8")
    assert done.code == 0, done.err
    assert done.out.startswith("def é")
    assert "packed.safetensors" in done.out
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.move(run / "export" / "packed.safetensors", alone)
    shutil.copytree(run / "export" / "tokenizer", alone / "tokenizer")
    again = cli("generate", str(alone / "packed.safetensors"), "--prompt", "def é", "--new-tokens", "8")
    text, plain = (out.rpartition("\n(")[0] for out in (done.out, again.out))
    assert plain == text
    shutil.copytree(alone / "tokenizer", run / "export" / "transformers")
    without = cli("generate", str(run), "--prompt", "def é", "--new-tokens", "8")  # from model.safetensors
    assert without.out.rpartition("\n(")[0] == text
    for words, message in (
        (("--prompt", ""), "--prompt is empty"),
        (("--prompt", "x", "--new-tokens", "64"), "the model has positions for 64"),
        (("--prompt", "x", "--temperature", "-1"), "--temperature: expected at least 0"),
    ):
        refused = cli("generate", str(alone / "packed.safetensors"), *words)
        assert refused.code == 2
        assert message in refused.err
