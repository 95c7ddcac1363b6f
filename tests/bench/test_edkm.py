import json
from argparse import Namespace

import pytest
from lightsleeper.bench import edkm
from lightsleeper.errors import UserError


def measure(*parts: str) -> dict:
    return edkm.run(Namespace(part=list(parts), quick=True, repeats=1, threads=1, seeds=1, out=None, memory_gb=None))


def test_the_layer_part_compares_gradients_and_times(capsys):
    found = measure("layer")
    layer = found["layer"]
    assert json.loads(json.dumps(found)) == found
    assert max(layer["gradient_difference"][name] for name in ("table", "chunked")) < edkm.EQUAL
    assert layer["ratio"]["dense"] > 1
    assert set(layer["floor_ms"]) >= {"count", "look up", "add up"}
    printed = capsys.readouterr().out
    assert "threads 1" in printed
    assert "gradients of table and chunked equal to 1e-05: yes" in printed


def test_the_memory_part_keeps_the_gradients_and_the_order_of_the_techniques():
    found = measure("memory")["memory"]
    kept = found["bytes"]
    assert found["gradients_equal"]
    assert kept["none"] > kept["M"] > kept["M+U"] > kept["M+U+S"]
    assert kept["M"] > kept["M+S"] > kept["M+U+S"] > kept["table"]


def test_the_step_part_compares_with_the_plain_layer():
    ratio = measure("step")["step"]["ratio"]
    assert ratio["plain"] == 1.0
    assert len(ratio) == 3


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="no part 'memroy'"):
        measure("memroy")
