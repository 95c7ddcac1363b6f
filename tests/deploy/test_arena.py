from pathlib import Path

import numpy as np
import onnx
import pytest
from lightsleeper.deploy.arena import STEP, arena_bytes
from onnx import TensorProto, helper


def chain(path: Path, steps: int) -> None:
    """``steps`` products, none of which can be done in place, of a (256, 256) matrix with itself: 256 KiB each."""
    nodes = [helper.make_node("MatMul", [f"t{n}", f"t{n}"], [f"t{n + 1}"]) for n in range(steps)]
    kind = (TensorProto.FLOAT, [256, 256])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("t0", *kind)], [helper.make_tensor_value_info(f"t{steps}", *kind)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


@pytest.mark.parametrize(("steps", "held"), [(1, 1), (3, 2)])
def test_a_chain_needs_its_output_and_what_that_is_made_of(tmp_path, steps: int, held: int):
    path = tmp_path / "chain.onnx"
    chain(path, steps)
    found = arena_bytes(path, {"t0": np.zeros((256, 256), np.float32)})
    assert found is not None
    assert 0 <= found - held * 256 * 256 * 4 <= 2 * STEP


def test_what_does_not_run_has_no_size(tmp_path):
    (tmp_path / "no.onnx").write_text("nothing")
    assert arena_bytes(tmp_path / "no.onnx", {}) is None
