"""Graphs that judge faces by their brightness, with the inputs and outputs of an exported active-speaker model."""

import onnx
from onnx import TensorProto, helper

PIXELS = 16


def _save(path, nodes, inputs, outputs, facts):
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("flat", TensorProto.INT64, [2], [-1, 1]),
        helper.make_tensor("line", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
    ]
    graph = helper.make_graph(nodes, "faces", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


_BRIGHTNESS = [
    helper.make_node("Cast", ["faces"], ["grey"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=0),  # (N, T)
    helper.make_node("Div", ["mean", "white"], ["share"]),
]


def step_graph(path, threshold=0.5):
    """Streams with a delay of one frame: the state is the brightness of the frame before, and whether there was one."""
    nodes = [
        *_BRIGHTNESS,
        helper.make_node("Gather", ["state", "zero"], ["score"], axis=1),
        helper.make_node("Gather", ["state", "one"], ["ready"], axis=1),
        helper.make_node("Reshape", ["share", "flat"], ["now"]),
        helper.make_node("Reshape", ["present", "flat"], ["there"]),
        helper.make_node("Concat", ["now", "there"], ["next_state"], axis=1),
    ]
    inputs = [
        _value("faces", TensorProto.UINT8, ["n", 1, PIXELS, PIXELS]), _value("mfcc", TensorProto.FLOAT, ["n", 4, 13]),
        _value("present", TensorProto.FLOAT, ["n"]), _value("state", TensorProto.FLOAT, ["n", 2]),
    ]  # fmt: skip
    outputs = [
        _value("score", TensorProto.FLOAT, ["n"]), _value("ready", TensorProto.FLOAT, ["n"]),
        _value("next_state", TensorProto.FLOAT, ["n", 2]),
    ]  # fmt: skip
    facts = {"pixels": PIXELS, "delay": 1, "state_size": 2, "threshold": threshold, "fps": 25}
    return _save(path, nodes, inputs, outputs, facts)


def clip_graph(path):
    """Judges whole tracks; exported without a threshold."""
    nodes = [*_BRIGHTNESS[:2], helper.make_node("Div", ["mean", "white"], ["score"])]
    inputs = [
        _value("faces", TensorProto.UINT8, [1, "t", PIXELS, PIXELS]), _value("mfcc", TensorProto.FLOAT, [1, "m", 13]),
    ]  # fmt: skip
    return _save(path, nodes, inputs, [_value("score", TensorProto.FLOAT, [1, "t"])], {"pixels": PIXELS})
