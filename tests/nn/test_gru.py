import onnx
import onnxruntime
import pytest
import torch
from lightsleeper.nn.gru import GRU
from torch import nn


def test_it_is_the_torch_gru() -> None:
    torch.manual_seed(0)
    ours, reference = GRU(5, 7, num_layers=2), nn.GRU(5, 7, num_layers=2, batch_first=True)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(3, 11, 5)
    assert torch.equal(ours(x), reference(x)[0])


def test_every_export_of_a_process_keeps_the_length_dynamic(tmp_path) -> None:
    for attempt in range(2):  # torch's own conversion of nn.GRU is right the first time only
        model = GRU(5, 7, num_layers=2).eval()
        path = tmp_path / f"{attempt}.onnx"
        options = {"dynamo": True, "external_data": False, "verbose": False, "opset_version": 18}
        shapes = ({0: "rows", 1: "frames"},)
        torch.onnx.export(model, (torch.randn(2, 20, 5),), path, input_names=["x"], dynamic_shapes=shapes, **options)
        assert [node.op_type for node in onnx.load(path).graph.node].count("GRU") == 2
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for rows, frames in ((1, 1), (3, 4), (1, 133)):
            x = torch.randn(rows, frames, 5)
            with torch.no_grad():
                assert session.run(None, {"x": x.numpy()})[0] == pytest.approx(model(x).numpy(), abs=1e-5)
