"""Each distribution draws, lists and suggests what W&B's definition says."""

import json
import math
import random
import statistics

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.errors import UserError
from lightsleeper.recipe import override
from lightsleeper.search.space import ARGUMENTS, REFUSED, Parameter, arguments, check_carried, plain
from search.wandb_rules import EXAMPLES

N = 4000


def parameter(distribution: str, **changed: object) -> Parameter:
    return Parameter.of("model.dim", {"distribution": distribution, **EXAMPLES[distribution], **changed})


def drawn(distribution: str, **changed: object) -> list:
    rng = random.Random(1)
    return [parameter(distribution, **changed).draw(rng) for _ in range(N)]


def suggested(entry: Parameter, n: int = 40) -> list:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [entry.suggest(study.ask(), "model.dim") for _ in range(n)]


def test_the_examples_here_are_all_distributions():
    assert set(EXAMPLES) == set(ARGUMENTS)


@pytest.mark.parametrize("distribution", ARGUMENTS)
def test_a_draw_is_repeated_by_its_seed_and_is_plain(distribution: str):
    values = drawn(distribution)[:50]
    assert values == drawn(distribution)[:50]
    assert json.loads(json.dumps(values)) == values


# median of each distribution, in closed form
MEDIANS = {
    "uniform": 2.0,
    "log_uniform": math.exp(-2),
    "log_uniform_values": 1e-2,
    "inv_log_uniform": math.exp(-2),
    "inv_log_uniform_values": 1e-2,
    "normal": 2.0,
    "log_normal": math.e,
    "beta": 0.2645,
}


@pytest.mark.parametrize("distribution", MEDIANS)
def test_half_of_the_draws_lie_below_the_median(distribution: str):
    below = sum(value < MEDIANS[distribution] for value in drawn(distribution)) / N
    assert below == pytest.approx(0.5, abs=0.03)  # four standard errors


@pytest.mark.parametrize(
    ("distribution", "low", "high"),
    [("uniform", 1, 3), ("log_uniform", math.exp(-4), 1), ("log_uniform_values", 1e-4, 1)]
    + [("inv_log_uniform", math.exp(-4), 1), ("inv_log_uniform_values", 1e-4, 1), ("beta", 0, 1)],
)
def test_draws_stay_within_their_bounds_and_come_near_them(distribution: str, low: float, high: float):
    values = drawn(distribution)
    assert low <= min(values)
    assert max(values) <= high
    if distribution != "beta":
        assert min(values) < low + 0.02 * (high - low)
        assert max(values) > high - 0.02 * (high - low)


def test_a_normal_has_its_mean_and_deviation():
    values = drawn("normal")
    assert statistics.mean(values) == pytest.approx(2.0, abs=0.04)
    assert statistics.stdev(values) == pytest.approx(0.5, abs=0.03)


def test_probabilities_weigh_the_values():
    assert drawn("categorical_w_probabilities").count("b") / N == pytest.approx(0.75, abs=0.03)


def test_whole_numbers_reach_both_ends():
    assert set(drawn("int_uniform")) == {2, 3, 4, 5}


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        ("q_uniform", {0, 0.25, 0.5, 0.75, 1}),  # rounded, so the maximum comes too
        ("q_beta", {round(0.1 * step, 1) for step in range(11)}),
    ],
)
def test_quantised_draws_are_multiples_without_the_noise_of_floats(distribution: str, values: set):
    assert set(drawn(distribution)) <= values
    assert {0, 1} <= {int(value) for value in values}


def test_a_quantum_without_a_point_gives_whole_numbers():
    assert {type(value) for value in drawn("q_log_uniform")} == {int}
    assert set(drawn("q_log_uniform_values")) <= set(range(0, 101, 5))


def test_the_default_quantum_is_one():
    entry = Parameter.of("x", {"distribution": "q_normal", "mu": 3})
    assert all(float(entry.draw(random.Random(seed))).is_integer() for seed in range(20))


# --- the list of a grid ---


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"value": "same"}, ["same"]),
        ({"values": [0.5, 1.0, 1, 0.5]}, [0.5, 1]),
        ({"values": [True, 1]}, [True, 1]),
        ({"min": 1, "max": 3}, [1, 2, 3]),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.9, "q": 0.3}, [0, 0.3, 0.6]),  # as W&B: without the maximum
        ({"distribution": "q_uniform", "min": 1, "max": 8, "q": 3}, [1, 4, 7]),
    ],
)
def test_a_grid_lists_every_value_once(spec: dict, values: list):
    found = Parameter.of("x", spec).grid()
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("distribution", REFUSED["grid"])
def test_a_distribution_without_a_list_is_refused_by_name(distribution: str):
    with pytest.raises(UserError, match=f"distribution {distribution} is not for method grid. Valid: constant, cat"):
        parameter(distribution).grid()


# --- Optuna ---


@pytest.mark.parametrize("distribution", [name for name in ARGUMENTS if name not in REFUSED["bayes"]])
def test_optuna_searches_the_same_range_as_a_draw_covers(distribution: str):
    values, draws = suggested(parameter(distribution)), drawn(distribution)
    if isinstance(draws[0], str):
        assert set(values) == set(draws)
    else:
        spread = max(draws) - min(draws)
        assert min(draws) - 0.5 * spread <= min(values) <= max(values) <= max(draws) + 0.5 * spread
        assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize("distribution", REFUSED["bayes"])
def test_a_prior_that_optuna_has_no_scale_for_is_refused_by_name(distribution: str):
    with pytest.raises(UserError, match=f"distribution {distribution} is not for method bayes"):
        suggested(parameter(distribution))


def test_a_normal_is_searched_on_the_scale_where_it_is_uniform():
    values = suggested(parameter("normal"), n=400)
    assert statistics.mean(values) == pytest.approx(2.0, abs=0.1)
    assert statistics.stdev(values) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("values", [[1, True], [[1, 2], [3]], [{"class_path": "A"}, "null"], [1, 1.0, 2]])
def test_values_that_optuna_would_confuse_come_back_as_they_are(values: list):
    found = suggested(Parameter.of("x", {"values": values}))
    assert {json.dumps(value) for value in found} == {json.dumps(plain(value)) for value in values}


# --- reading an entry ---


@pytest.mark.parametrize(
    ("spec", "distribution"),
    [
        ({"value": 1}, "constant"),
        ({"values": [1]}, "categorical"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "categorical_w_probabilities"),
        ({"min": 1, "max": 2}, "int_uniform"),
        ({"min": 1.0, "max": 2.0}, "uniform"),
    ],
)
def test_a_missing_distribution_is_the_one_that_wandb_infers(spec: dict, distribution: str):
    assert Parameter.of("x", spec).distribution == distribution


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([1, 2], "expected a mapping such as"),
        ({}, "needs values, value, min and max"),
        ({"vlaues": [1]}, "Unknown key 'vlaues'. Did you mean 'values'?"),
        ({"values": []}, "at least one value"),
        ({"values": 3}, "at least one value"),
        ({"values": [1], "min": 0}, "categorical has no 'min'"),
        ({"min": 1}, "int_uniform needs 'max'"),
        ({"min": 2, "max": 2}, "min 2 is not less than max 2"),
        ({"min": 1, "max": 2.5}, "write both with a point, or both without"),
        ({"min": True, "max": 2}, "min: expected a number, got True"),
        ({"min": "1e-3", "max": 2}, r"expected a number, got '1e-3'. Write 1.0e-3"),
        ({"min": 0.0, "max": float("inf")}, "expected a number, got inf"),
        ({"min": 1.5, "max": 3, "distribution": "int_uniform"}, "int_uniform takes whole numbers, got 1.5"),
        ({"distribution": "unifrom", "min": 1, "max": 2}, "Did you mean 'uniform'?"),
        ({"distribution": None, "min": 1, "max": 2}, "unknown distribution null"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "limits above 0, got 0"),
        ({"distribution": "log_uniform", "min": 16, "max": 4096}, "exponents of e, got 16 to 4096; see log_uniform_"),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}, "q: expected a number above 0"),
        ({"distribution": "normal", "sigma": -1}, "sigma: expected a number at least 0"),
        ({"distribution": "normal", "sigmas": 1}, "normal has no 'sigmas'. Did you mean 'sigma'?"),
        ({"distribution": "log_normal", "mu": 800}, "would overflow"),
        ({"distribution": "beta", "a": 0}, "a: expected a number above 0"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "2 numbers from 0 that sum to 1"),
        ({"values": [1, 2], "probabilities": [1.0]}, "2 numbers from 0 that sum to 1"),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "2 numbers from 0 that sum to 1"),
        ({"parameters": {"dim": {"value": 1}}}, "nested; write each knob flat: 'model.KEY"),
        ({"value": None}, "null would arrive as the text 'None'"),
        ({"values": [1, None]}, "null would arrive as the text 'None'"),
        ({"values": ["3"]}, "'3' would arrive as 3"),
        ({"values": ["true"]}, "'true' would arrive as True"),
        ({"values": ["{"]}, "cannot be read back"),
        ({"values": [["a", None]]}, "would arrive as"),
    ],
)
def test_a_wrong_entry_is_refused_and_says_why(spec: object, message: str):
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("{", r"\{")):
        Parameter.of("model", spec)


# --- the command line ---


def test_arguments_are_those_of_wandbs_agent_in_the_order_of_names():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    parameters = {"b.c": 0.5, "a.x": True, "b.a": [1, "x"], "c": "null", "d": 1e-05, "e": {"class_path": "A"}}
    sent = {"args": {name: {"value": value} for name, value in sorted(parameters.items())}}
    assert arguments(parameters) == create_sweep_command_args(sent)["args"]


VALUES = st.recursive(
    st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(VALUES)
def test_a_value_that_is_accepted_reaches_the_recipe_as_it_is(value: object):
    try:
        check_carried(value)
    except UserError:
        return
    config: dict = {"model": {"class_path": "A", "init_args": {"x": 0}}}
    [argument] = arguments({"model.x": plain(value)})
    override(config, argument)
    expected = None if value == "null" else plain(value)
    if not isinstance(expected, dict):  # a mapping is merged, which is another matter
        assert config["model"]["init_args"]["x"] == expected


def test_the_text_null_switches_a_callback_off():
    config: dict = {"callbacks": {"prune": {"class_path": "A"}}}
    override(config, arguments({"callbacks.prune": Parameter.of("callbacks.prune", {"values": ["null"]}).grid()[0]})[0])
    assert config["callbacks"] == {}
