"""Sweep files: W&B's own, of which we take those that run a recipe.

Whatever is accepted here means the same to `wandb sweep`; the two differ in what they refuse. W&B starts a sweep of a
mistyped knob and lets every run fail; here each knob is looked up in the recipe first. Reading imports no torch.
"""

import copy
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.recipe import SECTIONS, Recipe, load, override, parse, shipped, shown
from lightsleeper.search.space import Method, Parameter, arguments, exponent_hint

Goal = Literal["maximize", "minimize"]

KEYS = (
    *("name", "description", "project", "entity", "apiVersion", "kind", "controller"),
    *("program", "command", "method", "metric", "parameters", "run_cap", "early_terminate"),
)
ELSEWHERE = {
    "job": "it starts runs through W&B Launch; a sweep of recipes has a command",
    "image_uri": "it starts runs through W&B Launch; a sweep of recipes has a command",
    "scheduler": "it hands the search to a program of its own; `lightning sweep --local` has Optuna built in",
    "metrics": "a file has one metric; `lightning sweep --local --objectives a,b` searches several",
}
"""Keys of W&B's schema that we do not follow, and why."""
METHODS: tuple[Method, ...] = ("grid", "random", "bayes")
METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
GOALS: tuple[Goal, ...] = ("maximize", "minimize")
IMPUTE = {"impute": ("latest", "best", "worst"), "impute_while_running": ("latest", "best", "worst", "false")}
HYPERBAND_KEYS = ("type", "max_iter", "min_iter", "s", "eta", "strict")
PROGRAMS = (["lightning"], ["lightsleeper"], ["${interpreter}", "-m", "lightsleeper"], ["python", "-m", "lightsleeper"])
EXPECTED = 'expected [lightning, run, RECIPE, "${args}"]'
GRID_LIMIT = 100_000
"""Points of a grid: more is a mistake, and a list too long to keep."""

_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Hyperband:
    """`early_terminate`: W&B's hyperband. An iteration is one validation: one value of the metric."""

    min_iter: int | None
    """First iteration that stops runs; the next are `eta` times further each."""
    max_iter: int | None
    """Last iteration of a run; the `s` before it are `eta` times nearer each."""
    s: int | None
    eta: float

    def bands(self, limit: int) -> list[int]:
        """Iterations below ``limit`` after which a run must be among the best 1/eta, ascending."""
        if self.max_iter is not None:
            found = [int(self.max_iter / self.eta**power) for power in range(1, (self.s or 0) + 1)]
        else:
            first = self.min_iter or 1
            powers = range(1 + max(0, math.ceil(math.log(max(limit / first, 1), self.eta))))
            found = [int(first * self.eta**power) for power in powers]
        return sorted({band for band in found if 1 <= band < limit})


@dataclass(frozen=True)
class SweepFile:
    """One sweep, read and checked."""

    path: Path
    name: str
    """Of the file, or its `name`; fit for a folder and an id."""
    method: Method
    metric: str
    """Validation metric, such as val/auc_hard."""
    goal: Goal
    recipes: list[str]
    """RECIPE and overlays of the command, as written."""
    overrides: list[str]
    """Fixed `--a.b=value` of the command."""
    parameters: dict[str, Parameter]
    """By dotted name, in the order of the file."""
    early_terminate: Hyperband | None
    run_cap: int | None
    text: dict[str, Any]
    """The file as it was, for W&B."""
    target: float | None = None
    """The sweep ends once a trial's metric has reached it."""
    cloud_only: dict[str, str] = field(default_factory=dict)
    """Settings that only W&B's servers follow -> their place."""

    def recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """The recipe of the trial with these values. Raises UserError."""
        return load(self.recipes, [*self.overrides, *arguments(parameters)])

    def points(self) -> Iterator[dict[str, Any]]:
        """Every point of a grid, the first parameter slowest, up to `run_cap`."""
        values = [parameter.grid() for parameter in self.parameters.values()]
        for point in itertools.islice(itertools.product(*values), self.run_cap):
            yield dict(zip(self.parameters, point, strict=True))

    def check_local(self) -> None:
        """Raise UserError for what only W&B's servers do."""
        for key, place in self.cloud_only.items():
            raise UserError(f"{place}: {key}: followed by W&B only; take it out to sweep without.")


def find(name: str | Path) -> Path:
    """The file of a sweep given as path or shipped name. Raises UserError with the nearest known name."""
    text = str(name)
    bare = re.sub(r"\.ya?ml$", "", text)
    known = shipped("sweeps")
    for candidate in (Path(text), Path(f"{bare}.yaml"), known.get(bare.removeprefix("sweeps/"))):
        if candidate is not None and candidate.is_file():
            return candidate
    raise UserError(f"no sweep '{text}'.{did_you_mean(bare.removeprefix('sweeps/'), known)}")


def read(path_or_name: str | Path) -> SweepFile:
    """Read and check a sweep file, every knob against its recipe; raises UserError with key, line and nearest name."""
    path = find(path_or_name)
    text, places = parse(path, "a sweep (method, metric, parameters, command)")
    return _Reader(path, text, places).everything()


class _Reader:
    """One file; every refusal names its key and line."""

    def __init__(self, path: Path, text: dict[str, Any], places: dict[str, str]) -> None:
        self.path, self.text, self.places = path, text, places

    def fail(self, key: str, text: str) -> NoReturn:
        place = self.places.get(key) or self.places.get(key.rpartition(".")[0]) or shown(self.path)
        raise UserError(f"{place}: {key}: {text}" if key else f"{place}: {text}")

    def everything(self) -> SweepFile:
        self.keys()
        self.as_wandb_reads_it()
        method = self.choice("method", METHODS)
        metric, goal, target, cloud_only = self.metric()
        parameters = self.parameters(method)
        files, overrides = self.command()
        name = self.text.get("name", self.path.stem)
        sweep = SweepFile(
            path=self.path,
            name=re.sub(r"[^\w.-]+", "-", name[:80], flags=re.ASCII).strip("-.") or "sweep",
            method=method,
            metric=metric,
            goal=goal,
            recipes=files,
            overrides=overrides,
            parameters=parameters,
            early_terminate=self.early_terminate(cloud_only),
            run_cap=self.run_cap(),
            text=copy.deepcopy(self.text),
            target=target,
            cloud_only=cloud_only,
        )
        self.size(sweep)
        self.knobs(sweep)
        return sweep

    def keys(self) -> None:
        if "model" in self.text and set(self.text) <= set(SECTIONS):
            self.fail("", "this is a recipe, not a sweep; `lightning run` runs it.")
        for key in self.text:
            if key in ELSEWHERE:
                self.fail(key, f"not supported: {ELSEWHERE[key]}.")
            if key not in KEYS:
                self.fail(str(key), f"unknown key.{did_you_mean(str(key), KEYS)}")
        for key in ("name", "description", "project", "entity", "apiVersion", "program"):
            if key in self.text and not isinstance(self.text[key], str):
                self.fail(key, f"expected a text, got {self.text[key]!r}.")
        if self.text.get("kind", "sweep") != "sweep":
            self.fail("kind", f"expected sweep, got {self.text['kind']!r}.")
        if self.text.get("controller", {"type": "cloud"}) != {"type": "cloud"}:
            self.fail("controller", "W&B's local controller is not supported; `lightning sweep --local` needs no W&B.")

    def as_wandb_reads_it(self) -> None:
        """W&B reads YAML 1.1: there `no` is false and 1e-3 a text. What differs is refused, not guessed."""
        try:
            theirs = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            self.fail("", f"W&B cannot read it: {' '.join(str(error).split())}.")
        for key, ours, other in _differences(self.text, theirs):
            hint = exponent_hint(other) or " Quote it."
            self.fail(key, f"{ours!r} here, but {other!r} to W&B, which reads YAML 1.1.{hint}")

    def choice(self, key: str, valid: tuple[Any, ...]) -> Any:
        value = self.value(key)
        if value not in valid:
            hint = (
                " It needs a program of its own as scheduler." if value == "custom" else did_you_mean(str(value), valid)
            )
            self.fail(key, f"expected {' or '.join(valid)}, got {value!r}.{hint if 'Valid' not in hint else ''}")
        return value

    def value(self, key: str) -> Any:
        value: Any = self.text
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            self.fail(key, "missing.")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.value(key)
        if not isinstance(value, dict) or not value:
            self.fail(key, f"expected a mapping with at least one entry, got {value!r}.")
        return value

    def number(
        self, key: str, value: Any, whole: bool = False, least: float = -math.inf, above: float = -math.inf
    ) -> Any:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            self.fail(key, f"expected a {'whole ' if whole else ''}number, got {value!r}.")
        if value < least or value <= above:
            bound = f"above {above:g}" if value <= above else f"of at least {least:g}"
            self.fail(key, f"expected a {'whole ' if whole else ''}number {bound}, got {value!r}.")
        return value

    # --- entries ---

    def metric(self) -> tuple[str, Goal, float | None, dict[str, str]]:
        given = self.mapping("metric")
        for key in given:
            if key not in METRIC_KEYS:
                self.fail(f"metric.{key}", f"unknown key.{did_you_mean(str(key), METRIC_KEYS)}")
        name = self.value("metric.name")
        if not isinstance(name, str) or not name.startswith("val/") or name == "val/":
            self.fail(
                "metric.name",
                f"{name!r}: a sweep optimises a validation metric such as val/loss; test numbers are shown, no more.",
            )
        goal: Goal = self.choice("metric.goal", GOALS) if "goal" in given else "minimize"  # W&B's default
        target = self.number("metric.target", given["target"]) if "target" in given else None
        cloud_only = {}
        for key, valid in IMPUTE.items():
            if key in given:
                self.choice(f"metric.{key}", valid)
                cloud_only[f"metric.{key}"] = self.places[f"metric.{key}"]
        return name, goal, target, cloud_only

    def parameters(self, method: Method) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {}
        for name, spec in self.mapping("parameters").items():
            key = f"parameters.{name}"
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", name, re.ASCII):
                self.fail(key, "expected the dotted name of a knob, such as model.dim or callbacks.prune.sparsity.")
            try:
                found[name] = Parameter.of(name, spec)
                found[name].refuse(method)
            except UserError as error:
                self.fail(key, str(error))
        return found

    def command(self) -> tuple[list[str], list[str]]:
        """Recipe files and fixed overrides of a command that is `lightning run`."""
        program = self.text.get("program")
        words = self.text.get("command")
        if words is None:
            self.fail("command", f"missing, so W&B would start PROGRAM with Python; {EXPECTED}.")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            self.fail("command", f"expected a list of words, got {words!r}; {EXPECTED}.")
        words = [_VARIABLE.sub(lambda name: os.environ.get(name[1], name[1]), word) for word in words]
        rest = words[1:] if words[:1] in (["${env}"], ["/usr/bin/env"]) else words
        start = next((start for start in PROGRAMS if rest[: len(start)] == start), None)
        if start is None or rest[len(start) : len(start) + 1] != ["run"]:
            self.fail("command", f"'{' '.join(words)}' is not `lightning run`; {EXPECTED}.")
        rest = rest[len(start) + 1 :]
        if rest.count("${args}") != 1:
            self.fail(
                "command", f"'{' '.join(words)}' passes the parameters {rest.count('${args}')} times; {EXPECTED}."
            )
        rest.remove("${args}")
        if "${program}" in rest and program is None:
            self.fail("program", "missing, and the command names it.")
        rest = [str(program) if word == "${program}" else word for word in rest]
        files = [word for word in rest if not word.startswith("-")]
        overrides = [word for word in rest if word.startswith("-")]
        for word in rest:
            if word.startswith("${"):
                self.fail("command", f"'{word}' is not supported; {EXPECTED}.")
            if word.startswith("--runs-dir"):
                self.fail("command", f"'{word}': a sweep's trials go where the sweep goes; see --runs-dir there.")
            if word.startswith("-") and not re.match(r"--[A-Za-z_][^=]*=", word):
                self.fail("command", f"'{word}': the only options of a sweep's command are --section.key=value.")
        if not files:
            self.fail("command", f"'{' '.join(words)}' names no recipe; {EXPECTED}.")
        return files, overrides

    def early_terminate(self, cloud_only: dict[str, str]) -> Hyperband | None:
        if "early_terminate" not in self.text:
            return None
        given = self.mapping("early_terminate")
        self.choice("early_terminate.type", ("hyperband",))
        for key in given:
            if key not in HYPERBAND_KEYS:
                self.fail(f"early_terminate.{key}", f"unknown key.{did_you_mean(str(key), HYPERBAND_KEYS)}")
        if given.keys() & {"min_iter", "max_iter", "s"} not in ({"min_iter"}, {"max_iter", "s"}):
            self.fail("early_terminate", "expected either min_iter, or max_iter and s.")
        limits = {
            key: self.number(f"early_terminate.{key}", given[key], whole=True, least=1) if key in given else None
            for key in ("min_iter", "max_iter", "s")
        }
        eta = self.number("early_terminate.eta", given.get("eta", 3), above=1)
        if not isinstance(given.get("strict", True), bool):
            self.fail("early_terminate.strict", f"expected true or false, got {given['strict']!r}.")
        if given.get("strict") is False:  # a run's best value so far would count, not its last
            cloud_only["early_terminate.strict"] = self.places["early_terminate.strict"]
        found = Hyperband(**limits, eta=eta)
        if found.max_iter is not None and not found.bands(found.max_iter):
            self.fail("early_terminate", f"max_iter {found.max_iter} and eta {eta:g} leave no iteration to stop at.")
        return found

    def run_cap(self) -> int | None:
        if "run_cap" not in self.text:
            return None
        return self.number("run_cap", self.text["run_cap"], whole=True, above=0)

    # --- the whole ---

    def size(self, sweep: SweepFile) -> None:
        if sweep.method != "grid":
            return
        points = math.prod(len(parameter.grid()) for parameter in sweep.parameters.values())
        if min(points, sweep.run_cap or points) > GRID_LIMIT:
            self.fail(
                "parameters", f"a grid of {points} points; the most is {GRID_LIMIT}. `method: random` draws from it."
            )

    def knobs(self, sweep: SweepFile) -> None:
        """Refuse a parameter that the recipe cannot take, as far as it shows without importing a class."""
        try:
            config = copy.deepcopy(load(sweep.recipes, sweep.overrides).config)
        except UserError as error:
            self.fail("command", str(error))
        fixed = {word.lstrip("-").partition("=")[0] for word in sweep.overrides}
        for name in sorted(sweep.parameters):
            key, parameter = f"parameters.{name}", sweep.parameters[name]
            if name in fixed:
                self.fail(key, "the command fixes it too.")
            values = parameter.arguments.get("values") or [
                parameter.arguments.get("value", parameter.arguments.get("min", 1))
            ]
            try:
                for value in reversed(values):  # a class of the first value stays for the knobs that follow
                    override(config, arguments({name: value})[0])
            except UserError as error:
                self.fail(key, str(error))


def _differences(ours: Any, theirs: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, our value, W&B's) wherever the two readings differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and list(map(str, ours)) == list(map(str, theirs)):
        for (name, value), other in zip(ours.items(), theirs.values(), strict=True):
            yield from _differences(value, other, f"{key}.{name}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for value, other in zip(ours, theirs, strict=True):
            yield from _differences(value, other, key)
    elif type(ours) is not type(theirs) or ours != theirs and not (ours != ours and theirs != theirs):
        yield key, ours, theirs


__all__ = ["Hyperband", "SweepFile", "find", "read"]
