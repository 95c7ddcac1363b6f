import hashlib
from importlib import import_module
from typing import get_args

import onnx
import pytest
import torch
from lightsleeper.deploy.export import OPSET, export
from lightsleeper.deploy.formats import FORMATS, FormatName
from lightsleeper.deploy.parity import ParityError
from lightsleeper.errors import UserError
from lightsleeper.models.family import ExportGraph
from torch import nn


def test_every_graph_becomes_one_proved_file(exported, artifacts, tmp_path):
    assert [artifact["path"] for artifact in artifacts] == ["model.onnx", "enroll.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["enroll.onnx", "model.onnx"]
    for artifact in artifacts:
        content = (tmp_path / artifact["path"]).read_bytes()
        assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
        assert artifact["bytes"] == len(content) > artifact["gzip_bytes"] > 0
        assert (artifact["format"], artifact["precision"]) == ("onnx", "fp32")
        assert artifact["parity"]["inputs"] == 16
        assert artifact["parity"]["max_abs_diff"] <= artifact["parity"]["tolerance"] == 1e-4


def test_the_file_says_what_it_is(exported, tmp_path):
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert facts["sample_rate"] == "16000"
    assert facts["threshold"] == "-1.0"
    assert facts["outputs"] == "score cuts"
    assert facts["phones"].split()[0] == "AA"
    assert facts["lightsleeper"]
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [OPSET]
    samples = proto.graph.input[0].type.tensor_type.shape.dim[1]
    assert samples.dim_param == "samples"
    assert str(tmp_path.parent.parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    assert b"tiny_matcher.py" not in (tmp_path / "model.onnx").read_bytes()  # no traces of the source


def test_export_is_quiet_and_reproducible(matcher, artifacts, tmp_path, capfd, recwarn):
    capfd.readouterr()
    again = export(matcher, tmp_path, ["onnx"], parity_inputs=1)
    out, err = capfd.readouterr()
    assert out + err == ""
    assert not recwarn.list
    assert [a["sha256"] for a in again] == [a["sha256"] for a in artifacts]


class Noisy(nn.Module):
    """Computes something else when it is traced: the fault that only a comparison finds."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, audio, tokens, token_count):
        score, cuts = self.inner(audio, tokens, token_count)
        return (score + 0.01, cuts) if torch.compiler.is_exporting() else (score, cuts)


def test_a_file_that_differs_fails_the_export_and_leaves_the_old_one(matcher, exported, tmp_path, monkeypatch):
    before = (tmp_path / "model.onnx").read_bytes()
    graphs = matcher.export_spec()
    graphs[0].module = Noisy(graphs[0].module)
    monkeypatch.setattr(matcher, "export_spec", lambda: graphs)
    with pytest.raises(ParityError, match="graph 'model': the exported file differs"):
        export(matcher, tmp_path, ["onnx"], parity_inputs=2)
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_formats_that_do_not_exist_are_refused_first(matcher, tmp_path):
    with pytest.raises(UserError, match="cannot export to 'onx'. Did you mean 'onnx'"):
        export(matcher, tmp_path, ["onnx", "onx"])
    with pytest.raises(UserError, match="Valid: coreml, litert_int8, onnx, onnx_int8, packed, transformers"):
        export(matcher, tmp_path, ["gguf"])
    with pytest.raises(UserError, match="no export format"):
        export(matcher, tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_graph_that_cannot_be_traced_is_named(matcher, tmp_path, monkeypatch):
    class Branching(nn.Module):
        def forward(self, audio, tokens, token_count):
            if audio.sum() > 0:  # a decision on data has no graph
                return audio.sum()[None], token_count
            return audio.mean()[None], token_count

    graph = matcher.export_spec()[0]
    graph.module = Branching()
    monkeypatch.setattr(matcher, "export_spec", lambda: [graph])
    with pytest.raises(UserError, match="graph 'model' cannot be exported to ONNX") as refusal:
        export(matcher, tmp_path, ["onnx"])
    assert len(str(refusal.value).splitlines()) == 1


def test_log_add_exp_keeps_its_range(tmp_path, monkeypatch, matcher):
    class Paths(nn.Module):
        def forward(self, first, second):
            return torch.logaddexp(first, second)

    graph = ExportGraph(
        "model",
        Paths(),
        lambda seed: {"first": torch.tensor([-500.0, 3.0, 0.0]) - seed, "second": torch.tensor([-501.0, 90.0, -1e5])},
        ["total"],
    )
    monkeypatch.setattr(matcher, "export_spec", lambda: [graph])
    assert export(matcher, tmp_path, ["onnx"], parity_inputs=4)[0]["parity"]["max_abs_diff"] < 1e-4


def test_the_table_of_formats_names_every_format_and_a_writer_of_each():
    assert set(FORMATS) == set(get_args(FormatName))
    for row in FORMATS.values():
        module_name, _, function = row.writer.rpartition(".")
        assert callable(getattr(import_module(module_name), function)), row.writer
