import math

import numpy as np
import pytest
import torch
from lightsleeper.deploy.parity import ParityError, compare_scores, largest_difference, prove, torch_outputs
from lightsleeper.errors import UserError


def _runner(graph, change=lambda outputs: outputs):
    def run(inputs):
        values = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return change({name: value.copy() for name, value in torch_outputs(graph, values).items()})

    return run


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([math.inf, math.nan], [math.inf, math.nan], 0.0),
        ([math.inf], [1.0], math.inf),
        ([math.nan], [1.0], math.inf),
        ([-math.inf], [math.inf], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_largest_difference_never_hides_a_difference(first, second, expected):
    assert largest_difference(np.array(first), np.array(second)) == expected


def test_the_module_equals_itself(matcher):
    graph = matcher.export_spec()[0]
    entry = prove(graph, _runner(graph), inputs=8)
    differences = {"max_abs_diff": 0.0, "max_scaled_diff": 0.0}
    assert entry == {**differences, "inputs": 8, "tolerance": 1e-4, "integer_mismatches": 0}


def test_values_beyond_one_are_measured_as_shares_of_themselves():
    expected = np.array([0.5, 100.0, math.inf])
    assert largest_difference(expected, np.array([0.5, 101.0, math.inf]), relative=True) == pytest.approx(0.01)
    assert largest_difference(expected, np.array([0.6, 100.0, math.inf]), relative=True) == pytest.approx(0.1)
    assert largest_difference(expected, np.array([0.5, 100.0, 1e9]), relative=True) == math.inf


@pytest.mark.parametrize("error", [5e-3, math.nan, math.inf])
def test_a_difference_on_a_single_input_is_found_and_named(matcher, error):
    graph = matcher.export_spec()[0]
    calls = []

    def late(outputs):
        calls.append(None)
        return {**outputs, "score": outputs["score"] + (error if len(calls) == 6 else 0.0)}

    with pytest.raises(ParityError, match=r"graph 'model'.*output 'score', seed 5"):
        prove(graph, _runner(graph, late), inputs=8)


def test_a_difference_within_the_tolerance_is_reported(matcher):
    graph = matcher.export_spec()[0]
    run = _runner(graph, lambda outputs: {**outputs, "score": outputs["score"] + np.float32(5e-5)})
    assert prove(graph, run, inputs=4)["max_abs_diff"] == pytest.approx(5e-5, rel=0.05)


def test_integer_outputs_may_tie_rarely_but_not_often(matcher):
    graph = matcher.export_spec()[0]
    calls = []

    def sometimes(every):
        def change(outputs):
            calls.append(None)
            other = len(calls) % every == 0  # another partition, as good in sum, has another score
            return {"cuts": outputs["cuts"] + other, "score": outputs["score"] + 0.01 * other}

        return change

    entry = prove(graph, _runner(graph, sometimes(16)), inputs=32)
    assert entry["integer_mismatches"] == 2
    assert entry["max_abs_diff"] < 1e-4
    with pytest.raises(ParityError, match="integer outputs differ on 16 of 32"):
        prove(graph, _runner(graph, sometimes(2)), inputs=32)


def test_wrongly_named_outputs_are_refused(matcher):
    graph = matcher.export_spec()[0]
    graph.outputs = ["score"]
    with pytest.raises(UserError, match="names 1 outputs, its module returns 2"):
        torch_outputs(graph, graph.sample(0))


def test_scores_of_two_forms_are_compared_by_scorer(matcher, pairs):
    shifted = lambda batch: {"shipped": matcher.score(batch)["shipped"] + 0.25, "other": torch.zeros(3)}  # noqa: E731
    with torch.no_grad():
        entry = compare_scores(matcher.score, shifted, [pairs, pairs])
    assert entry["rows"] == 6
    assert entry["max_abs_diff"] == {"shipped": pytest.approx(0.25)}
