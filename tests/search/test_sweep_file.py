"""A sweep file means here what it means to W&B; what it cannot mean is refused with key, line and nearest name."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightsleeper.errors import UserError
from lightsleeper.recipe import load
from lightsleeper.search.space import ARGUMENTS, REFUSED
from lightsleeper.search.sweep_file import Hyperband, find, read
from search.wandb_rules import EXAMPLES, RULES, published, violations

BASE = """\
program: base.yaml
command: [lightning, run, "${program}", --trainer.max_epochs=2, "${args}"]
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  model.dim: {values: [8, 16]}
  callbacks.prune.sparsity: {values: [0.5, 0.8, 0.9]}
"""
RECIPE = """\
model: {class_path: some.Model, init_args: {dim: 4}}
data: some.Data
callbacks:
  prune: {class_path: PDPMasking, init_args: {sparsity: 0.5}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(RECIPE)


def write(text: str = BASE, name: str = "sweep.yaml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def changed(old: str, new: str) -> Path:
    assert old in BASE
    return write(BASE.replace(old, new))


def refusal(old: str, new: str) -> str:
    with pytest.raises(UserError) as caught:
        read(changed(old, new))
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what it says ---


def test_a_file_is_read():
    sweep = read(write())
    assert (sweep.name, sweep.method, sweep.metric, sweep.goal) == ("sweep", "grid", "val/loss", "minimize")
    assert (sweep.recipes, sweep.overrides) == (["base.yaml"], ["--trainer.max_epochs=2"])
    assert list(sweep.parameters) == ["model.dim", "callbacks.prune.sparsity"]
    assert (sweep.early_terminate, sweep.run_cap, sweep.target, sweep.cloud_only) == (None, None, None, {})
    assert sweep.text == yaml.safe_load(BASE)


def test_reading_imports_neither_torch_nor_wandb():
    code = (
        "import sys; from lightsleeper.search.sweep_file import read; read(sys.argv[1])\n"
        "print([name for name in ('torch', 'lightning', 'wandb', 'optuna', 'jsonargparse') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(write())], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_the_points_of_a_grid_are_all_combinations_the_first_parameter_slowest():
    points = list(read(write()).points())
    assert len(points) == 6
    assert points[0] == {"model.dim": 8, "callbacks.prune.sparsity": 0.5}
    assert points[1] == {"model.dim": 8, "callbacks.prune.sparsity": 0.8}


def test_run_cap_ends_the_grid():
    assert len(list(read(changed("method: grid", "method: grid\nrun_cap: 4")).points())) == 4


def test_a_point_becomes_the_recipe_that_the_command_line_would_give():
    sweep = read(write())
    point = {"model.dim": 16, "callbacks.prune.sparsity": 0.9}
    typed = ["--trainer.max_epochs=2", "--model.dim=16", "--callbacks.prune.sparsity=0.9"]
    assert sweep.recipe(point).config == load(["base.yaml"], typed).config


@pytest.mark.parametrize(
    "start",
    [
        "lightning, run",
        "lightsleeper, run",
        '"${env}", lightning, run',
        '"${interpreter}", -m, lightsleeper, run',
        '"${env}", "${interpreter}", -m, lightsleeper, run',
    ],
)
def test_every_way_to_start_our_program_is_known(start: str):
    assert read(changed("lightning, run", start)).recipes == ["base.yaml"]


def test_overlays_and_the_recipe_may_stand_in_the_command_itself():
    write("trainer: {max_epochs: 3}", "more.yaml")
    sweep = read(changed('"${program}", --trainer.max_epochs=2', "base.yaml, more.yaml"))
    assert (sweep.recipes, sweep.overrides) == (["base.yaml", "more.yaml"], [])


def test_a_variable_in_the_command_is_filled_in_as_by_wandb(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EPOCHS", "5")
    assert read(changed("--trainer.max_epochs=2", '"--trainer.max_epochs=${envvar:EPOCHS}"')).overrides == [
        "--trainer.max_epochs=5"
    ]


def test_a_name_becomes_fit_for_a_folder():
    assert read(changed("method: grid", "method: grid\nname: Länge/../x sparsity?")).name == "L-nge-..-x-sparsity"


def test_a_missing_goal_is_wandbs_default():
    assert read(changed(", goal: minimize", "")).goal == "minimize"


def test_the_target_is_kept():
    assert read(changed("goal: minimize", "goal: minimize, target: 0.25")).target == 0.25


def test_what_only_wandb_follows_is_refused_without_it():
    sweep = read(changed("goal: minimize", "goal: minimize, impute: best"))
    with pytest.raises(UserError, match=r"sweep.yaml:4: metric.impute: followed by W&B only"):
        sweep.check_local()
    read(write()).check_local()


def test_a_name_finds_a_shipped_sweep_from_anywhere():
    assert find("kws_context_sparsity") == find("sweeps/kws_context_sparsity.yaml")
    assert read("kws_context_sparsity").name == "kws_context_sparsity"


def test_a_mistyped_name_is_told_the_nearest():
    with pytest.raises(UserError, match="no sweep 'lm_bit'. Did you mean 'lm_bits'"):
        read("lm_bit")


# --- what it must not say ---


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric:", "metrik:", "sweep.yaml:4: metrik: unknown key. Did you mean 'metric'?"),
        ("method: grid", "methd: grid", "Did you mean 'method'?"),
        ("method: grid", "", "sweep.yaml: method: missing."),
        ("method: grid", "method: gird", "expected grid or random or bayes, got 'gird'. Did you mean 'grid'?"),
        ("method: grid", "method: custom", "needs a program of its own"),
        ("method: grid", "method: grid\nscheduler: {engine: optuna}", "sweep.yaml:4: scheduler: not supported"),
        ("method: grid", "method: grid\njob: x", "job: not supported"),
        ("method: grid", "method: grid\nmetrics: []", "--objectives a,b"),
        ("method: grid", "method: grid\ncontroller: {type: local}", "W&B's local controller is not supported"),
        ("method: grid", "method: grid\nkind: job", "expected sweep, got 'job'"),
        ("method: grid", "method: grid\nname: 3", "name: expected a text, got 3"),
        ("method: grid", "method: grid\nrun_cap: 0", "sweep.yaml:4: run_cap: expected a whole number above 0, got 0."),
        ("method: grid", "method: grid\nrun_cap: 2.5", "run_cap: expected a whole number, got 2.5"),
        ("method: grid", "method: grid\nrun_cap: true", "run_cap: expected a whole number, got True"),
        ("metric: {name: val/loss, goal: minimize}\n", "", "metric: missing"),
        ("name: val/loss", "name: test/loss", "sweep.yaml:4: metric.name: 'test/loss': a sweep optimises a validation"),
        ("name: val/loss", "name: loss", "such as val/loss"),
        ("name: val/loss", "nam: val/loss", "metric.nam: unknown key. Did you mean 'name'?"),
        ("goal: minimize", "goal: min", "metric.goal: expected maximize or minimize, got 'min'"),
        ("goal: minimize", "target: low", "metric.target: expected a number, got 'low'"),
        ("goal: minimize", "impute: none", "metric.impute: expected latest or best or worst, got 'none'"),
        ("{values: [8, 16]}", "{value: null}", "sweep.yaml:6: parameters.model.dim: null would arrive"),
        ("{values: [8, 16]}", "{values: [8, null]}", "sweep.yaml:6: parameters.model.dim: null would arrive"),
        ("{values: [8, 16]}", "{min: 0.5, max: 2.0}", "distribution uniform is not for method grid"),
        ("model.dim: {values: [8, 16]}", "model: {parameters: {dim: {value: 8}}}", "parameters.model: nested"),
        ("model.dim:", "model dim:", "expected the dotted name of a knob"),
        ("model.dim:", "modle.dim:", "sweep.yaml:6: parameters.modle.dim: override '--modle.dim=16': unknown section"),
        ("callbacks.prune", "callbacks.prun", "the recipe has no callbacks.prun. Did you mean 'prune'?"),
        ("model.dim:", "trainer.max_epochs:", "parameters.trainer.max_epochs: the command fixes it too"),
        ("lightning, run", "python", "'python ${program} --trainer.max_epochs=2 ${args}' is not `lightning run`"),
        ("lightning, run", "lightning, evaluate", "is not `lightning run`; expected [lightning, run, RECIPE"),
        (', "${args}"', "", "passes the parameters 0 times"),
        ('"${args}"', '"${args_json}"', "passes the parameters 0 times"),
        ("--trainer.max_epochs=2", '"${args_json_file}"', "'${args_json_file}' is not supported"),
        ("--trainer.max_epochs=2", "--runs-dir=x", "trials go where the sweep goes"),
        ("--trainer.max_epochs=2", "--debug", "the only options of a sweep's command are"),
        ('"${program}"', "--model.dim=3", "names no recipe"),
        ("program: base.yaml\n", "", "program: missing, and the command names it"),
        ("base.yaml", "bse.yaml", "sweep.yaml:2: command: no recipe 'bse.yaml'"),
        ("method: grid", "method: grid\nearly_terminate: {type: median}", "early_terminate.type: expected hyperband"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband}", "either min_iter, or max_iter and s"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband, max_iter: 9}", "either min_iter, or"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband, max_iter: 9, min_iter: 1}", "either"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband, min_itr: 2}", "Did you mean 'min_iter'?"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband, min_iter: 2, eta: 1}", "above 1, got 1"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband, max_iter: 2, s: 1}", "no iteration to stop"),
        ("{values: [8, 16]}", "{min: 0, max: 90000}", "a grid of 270003 points; the most is 100000"),
        ("{values: [8, 16]}", "{values: [8, 8e-1]}", "0.8 here, but '8e-1' to W&B, which reads YAML 1.1. Write 8.0e-1"),
        ("{values: [8, 16]}", "{values: [yes]}", "'yes' here, but True to W&B, which reads YAML 1.1. Quote it."),
        ("{values: [8, 16]}", "{values: [8", "YAML syntax"),
        (BASE, "- method", "expected a sweep (method, metric, parameters, command), got a list"),
        (BASE, "", "got nothing"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_line(old: str, new: str, message: str):
    assert message in refusal(old, new)


def test_empty_parameters_are_refused():
    text = BASE[: BASE.index("parameters:")] + "parameters: {}\n"
    with pytest.raises(UserError, match="parameters: expected a mapping with at least one entry"):
        read(write(text))


def test_a_missing_command_is_told_what_wandb_would_do():
    text = "".join(line for line in BASE.splitlines(keepends=True) if not line.startswith("command"))
    with pytest.raises(UserError, match="W&B would start PROGRAM with Python"):
        read(write(text))


def test_a_recipe_is_told_apart_from_a_sweep():
    with pytest.raises(UserError, match=r"this is a recipe, not a sweep; `lightning run` runs it"):
        read("base.yaml")
    with pytest.raises(UserError, match=r"sweep.yaml:3: this is a sweep; `lightning sweep` runs it"):
        load([write()])


@pytest.mark.parametrize("method", ["grid", "bayes"])
@pytest.mark.parametrize("distribution", ARGUMENTS)
def test_a_distribution_is_taken_or_refused_by_name_for_its_method(method: str, distribution: str):
    entry = yaml.safe_dump({"distribution": distribution, **EXAMPLES[distribution]}, default_flow_style=True).strip()
    path = changed("{values: [8, 16]}", entry)
    path.write_text(path.read_text().replace("method: grid", f"method: {method}"))
    if distribution in REFUSED[method]:
        with pytest.raises(UserError, match=f"parameters.model.dim: the distribution {distribution} is not for"):
            read(path)
    else:
        assert read(path).parameters["model.dim"].distribution == distribution


# --- hyperband ---


@pytest.mark.parametrize(
    ("given", "bands"),
    [
        (Hyperband(min_iter=3, max_iter=None, s=None, eta=3), [3, 9]),
        (Hyperband(min_iter=1, max_iter=None, s=None, eta=2), [1, 2, 4, 8, 16]),
        (Hyperband(min_iter=None, max_iter=27, s=2, eta=3), [3, 9]),
        (Hyperband(min_iter=None, max_iter=27, s=9, eta=3), [1, 3, 9]),
        (Hyperband(min_iter=30, max_iter=None, s=None, eta=3), []),
        (Hyperband(min_iter=1, max_iter=None, s=None, eta=1.2), [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26]),
    ],
)
def test_hyperband_stops_after_these_validations_of_27(given: Hyperband, bands: list[int]):
    assert given.bands(27) == bands


# --- W&B's own rules ---

ENTRIES = st.one_of(
    *(st.just({"distribution": name, **spec}) for name, spec in EXAMPLES.items()),
    st.fixed_dictionaries({"values": st.lists(st.integers(0, 9) | st.floats(0, 1), min_size=0, max_size=3)}),
    st.fixed_dictionaries({"min": st.integers(-2, 2) | st.floats(-2, 2), "max": st.integers(-2, 2) | st.floats(-2, 2)}),
    st.dictionaries(
        st.sampled_from(
            ["min", "max", "q", "mu", "sigma", "a", "b", "value", "values", "probabilities", "distribution"]
        ),
        st.sampled_from([0, 1, 1.0, -1, 0.5, True, "x", [1], [0.5, 0.5], "normal", "q_beta", "uniform"]),
        max_size=4,
    ),
)
FILES = st.fixed_dictionaries(
    {
        "command": st.just(["lightning", "run", "base.yaml", "${args}"]),
        "method": st.sampled_from(["grid", "random", "bayes", "custom"]),
        "metric": st.fixed_dictionaries(
            {"name": st.just("val/loss")},
            optional={"goal": st.sampled_from(["minimize", "maximize", "up"]), "target": st.floats(0, 1)},
        ),
        "parameters": st.dictionaries(st.sampled_from(["model.dim", "model.x", "1x"]), ENTRIES, max_size=2),
    },
    optional={
        "run_cap": st.integers(-1, 3) | st.floats(0, 2),
        "name": st.text("ab", min_size=1) | st.integers(),
        "early_terminate": st.fixed_dictionaries(
            {"type": st.sampled_from(["hyperband", "x"])},
            optional={"min_iter": st.integers(0, 3), "max_iter": st.integers(0, 99), "s": st.integers(0, 3)},
        ),
        "extra": st.just(1),
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(FILES)
def test_whatever_is_accepted_is_valid_to_wandb(content: dict[str, Any]):
    path = write(yaml.safe_dump(content))
    try:
        sweep = read(path)
    except UserError:
        return
    assert violations(sweep.text) == []


@pytest.mark.skipif(published() is None, reason="W&B's package `sweeps` is not on the path")
@settings(max_examples=1000, deadline=None)
@given(FILES)
def test_our_words_for_wandbs_rules_agree_with_its_schema(content: dict[str, Any]):
    assert bool(violations(content, RULES)) == bool(violations(content, published()))


def test_the_rules_refuse_what_wandb_refuses():
    content = yaml.safe_load(BASE)
    assert violations(content) == []
    for wrong in ({"metod": 1}, {"method": "gird"}, {"parameters": {"x": {"values": []}}}, {"run_cap": 0}):
        assert violations({**content, **wrong}) != [], wrong


def test_a_copied_sweep_runs_against_the_recipe_beside_it(tmp_path: Path):
    shutil.copy(find("lm_bits"), tmp_path / "mine.yaml")
    assert read("mine").recipes == ["recipes/lm_edkm.yaml"]
