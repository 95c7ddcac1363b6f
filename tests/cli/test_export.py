import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_matcher import tiny_runs

RUN = "20260101-000000-abcd"


@pytest.mark.parametrize("name", [RUN, "last", RUN[:12], "path", "export"])
def test_a_run_is_found_however_it_is_named(cli, tmp_path, name, monkeypatch):
    folder = tiny_runs() / "tiny" / RUN
    given = []

    def export(model, out, formats, parity_inputs, streams):
        given.append((model.frame.weight, out, formats, parity_inputs, streams))
        return []

    monkeypatch.setattr("lightsleeper.deploy.export.export", export)
    name = {"path": str(folder), "export": str(folder / "export")}.get(name, name)
    assert cli("export", name, "--runs-dir", str(tiny_runs()), "--out", str(tmp_path), "--parity-inputs", "1").code == 0
    ((weight, *arguments),) = given
    assert torch.equal(weight, load_file(folder / "export" / "model.safetensors")["frame.weight"])
    assert arguments == [tmp_path, ["onnx"], 1, None]


def test_it_writes_what_the_run_wrote(cli, tmp_path):
    folder = tiny_runs() / "tiny" / RUN
    done = cli("export", RUN, "--runs-dir", str(tiny_runs()), "--out", str(tmp_path), "--parity-inputs", "1", "--json")
    assert done.code == 0
    assert [artifact["path"] for artifact in json.loads(done.out)] == ["model.onnx", "enroll.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "export" / "model.onnx").read_bytes()


def test_the_report_states_size_and_proof(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("export", RUN, "--runs-dir", str(tiny_runs()), "--parity-inputs", "2")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("(accepted 0.0001)")
    assert lines[0].startswith(f"export-{RUN}/model.onnx: ")
    assert "on 2 inputs, " in lines[0]
    assert (tmp_path / f"export-{RUN}" / "enroll.onnx").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no run 'nowhere'"),
        ([RUN, "--formats", "tflite"], "cannot export to 'tflite'. Valid: coreml, litert_int8, onnx, onnx_int8, "),
        ([RUN, "--formats", "onnx_int8"], "onnx_int8 is for wake-word detectors, which TinyMatcher is not"),
        ([RUN, "--formats", "onx"], "Did you mean 'onnx'?"),
        ([RUN, "--parity-inputs", "0"], "expected a whole number of at least 1, got '0'"),
        ([RUN, "--out", __file__], "cannot write"),
    ],
)
def test_mistakes_are_one_line(cli, words, message):
    failed = cli("export", *words, "--runs-dir", str(tiny_runs()))
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert failed.out == ""


def test_the_files_that_a_record_describes_are_not_written_over(cli):
    folder = tiny_runs() / "tiny" / RUN
    before = (folder / "export" / "model.onnx").stat().st_mtime_ns
    failed = cli("export", RUN, "--runs-dir", str(tiny_runs()), "--out", str(folder / "export"))
    assert failed.code == 2
    assert f"holds the files that the record of {RUN} describes" in failed.err
    assert (folder / "export" / "model.onnx").stat().st_mtime_ns == before


def test_a_run_without_a_finalized_model_says_so(cli, tmp_path):
    folder = tmp_path / "tiny" / RUN
    folder.mkdir(parents=True)
    (folder / "record.json").write_text((tiny_runs() / "tiny" / RUN / "record.json").read_text())
    failed = cli("export", RUN, "--runs-dir", str(tmp_path))
    assert failed.code == 2
    assert "did not reach its finalize stage" in failed.err
