"""Core ML: converts, and holds the trained weights as tables. Needs coremltools (the coreml extra)."""

import zipfile

import pytest
import torch
from lightsleeper.deploy.export import export
from lightsleeper.deploy.palettized import convert, write_coreml
from lightsleeper.errors import UserError
from lightsleeper.models.family import ExportGraph
from tiny_family import TinyFamily
from torch import nn

pytest.importorskip("coremltools")


def graph(net: nn.Module, bits: int = 3, **settings) -> ExportGraph:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        table = torch.randn(1 << bits, generator=generator)
        net[0].weight.copy_(table[torch.randint(1 << bits, net[0].weight.shape, generator=generator)])
    return ExportGraph("model", net.eval(), lambda seed: {"x": torch.randn(2, 64)}, ["y"], **settings)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_the_program_holds_the_very_weights_as_a_table(bits: int):
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
    operations = convert(graph(net, bits))._mil_program.functions["main"].operations
    tables = [op for op in operations if op.op_type == "constexpr_lut_to_dense"]
    assert len(tables) == 1  # the other layer has more than 256 values
    assert torch.equal(torch.from_numpy(tables[0].materialized_val_inference()), net[0].weight.detach())


def test_a_package_comes_as_one_zip_file(tmp_path):
    path = tmp_path / "model.mlpackage.zip"
    facts = write_coreml(graph(nn.Sequential(nn.Linear(64, 96)), dynamic={"x": {0: "batch"}}), path)
    assert facts["palettized"] == 1
    assert facts["package_bytes"] < 0.5 * 4 * 64 * 96
    with zipfile.ZipFile(path) as archive:
        assert "model.mlpackage/Manifest.json" in archive.namelist()


def test_what_cannot_be_converted_is_named_in_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    odd = ExportGraph("odd", Odd(), lambda seed: {"x": torch.randn(2, 64)}, ["y"])
    with pytest.raises(UserError, match="graph 'odd' cannot be converted to Core ML") as refusal:
        write_coreml(odd, tmp_path / "odd.mlpackage.zip")
    assert len(str(refusal.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_export_writes_it_behind_the_other_formats(tmp_path):
    torch.manual_seed(0)
    artifacts = export(TinyFamily().eval(), tmp_path, ["coreml", "packed", "onnx"], parity_inputs=1)
    assert [artifact["format"] for artifact in artifacts] == ["onnx", "packed", "coreml"]
    assert (tmp_path / artifacts[-1]["path"]).stat().st_size == artifacts[-1]["bytes"]
