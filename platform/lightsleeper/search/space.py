"""What a sweep may vary: the distributions of W&B's sweep files, listed, drawn, or searched by Optuna.

Each means what W&B's own engine (PyPI `sweeps`) makes of it: quantised ones are `round(x / q) * q`, whole where `q` was
written without a point; the bounds of `log_uniform` are exponents of e, those of `log_uniform_values` the limits
themselves. A float without fraction becomes an int, as it does on the way through W&B's servers.

Optuna's TPE knows uniform priors only. A normal one is searched on the scale of its probabilities, where it is uniform;
what cannot be brought to such a scale is refused by name.
"""

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.recipe import parse_value

if TYPE_CHECKING:
    import optuna

Method = Literal["grid", "random", "bayes"]

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
"""Distribution -> its arguments, as in W&B's schema."""
DEFAULTS: dict[str, float] = {"mu": 0.0, "sigma": 1.0, "q": 1.0, "a": 1.0, "b": 1.0}
REFUSED: dict[Method, tuple[str, ...]] = {
    "grid": tuple(name for name in ARGUMENTS if name not in ("constant", "categorical", "int_uniform", "q_uniform")),
    "random": (),
    "bayes": ("categorical_w_probabilities", "beta", "q_beta"),
}
"""Method -> distributions that it cannot use. Those of grid are W&B's own rule."""

TAIL = 1e-4  # a normal searched by Optuna ends at these probabilities, 3.7 sigma from its middle


@dataclass(frozen=True)
class Parameter:
    """One knob of a sweep and where its values come from.

    Example:
        Parameter.of("model.past_frames", {"values": [16, 32]}).grid() == [16, 32]
    """

    name: str
    """Dotted name of the knob, as on the command line."""
    distribution: str
    arguments: Mapping[str, Any]
    """`min`, `max`, `q`, `mu`, `sigma`, `a`, `b`, `value`, `values`, `probabilities`: those of the distribution."""

    @classmethod
    def of(cls, name: str, spec: Any) -> "Parameter":
        """Read the entry of a sweep file; the distribution is inferred as W&B does it. Raises UserError."""
        if not isinstance(spec, Mapping):
            raise UserError(f"expected a mapping such as {{values: [1, 2]}}, got {_shown(spec)}.")
        if "parameters" in spec:
            raise UserError(f"nested; write each knob flat: '{name}.KEY: {{values: [...]}}'.")
        distribution = spec["distribution"] if "distribution" in spec else _inferred(spec)
        if not isinstance(distribution, str) or distribution not in ARGUMENTS:
            raise UserError(f"unknown distribution {_shown(distribution)}.{did_you_mean(str(distribution), ARGUMENTS)}")
        known = ARGUMENTS[distribution]
        for key in spec:
            if key not in (*known, "distribution"):
                raise UserError(f"{distribution} has no '{key}'.{did_you_mean(str(key), known)}")
        for key in known:
            if key not in spec and key not in DEFAULTS:
                raise UserError(f"{distribution} needs '{key}'.")
        arguments = {key: spec.get(key, DEFAULTS.get(key)) for key in known}
        _check(distribution, arguments)
        return cls(name, distribution, arguments)

    def refuse(self, method: Method) -> None:
        """Raise UserError when ``method`` cannot use this distribution."""
        if self.distribution in REFUSED[method]:
            usable = [name for name in ARGUMENTS if name not in REFUSED[method]]
            raise UserError(
                f"the distribution {self.distribution} is not for method {method}. Valid: {', '.join(usable)}."
            )

    def grid(self) -> list[Any]:
        """Every value once. Raises UserError for a distribution that has no list of values."""
        self.refuse("grid")
        given = self.arguments
        if self.distribution == "constant":
            return [plain(given["value"])]
        if self.distribution == "int_uniform":
            return list(range(given["min"], given["max"] + 1))
        if self.distribution == "q_uniform":  # W&B leaves the maximum out, as `range` does
            count = math.ceil((given["max"] - given["min"]) / given["q"] - 1e-9)
            return [_tidy(given["min"] + index * given["q"]) for index in range(count)]
        return _distinct(given["values"])

    def draw(self, rng: random.Random) -> Any:
        """One value at random."""
        given = self.arguments
        match self.distribution.removeprefix("q_").removesuffix("_values"):
            case "constant":
                return plain(given["value"])
            case "categorical":
                return plain(rng.choice(given["values"]))
            case "categorical_w_probabilities":
                return plain(rng.choices(given["values"], given["probabilities"])[0])
            case "int_uniform":
                return rng.randint(given["min"], given["max"])
            case "uniform":
                value = rng.uniform(given["min"], given["max"])
            case "log_uniform" | "inv_log_uniform":
                value = math.exp(rng.uniform(*(math.log(limit) for limit in self._limits())))
            case "normal":
                value = rng.normalvariate(given["mu"], given["sigma"])
            case "log_normal":
                value = rng.lognormvariate(given["mu"], given["sigma"])
            case "beta":
                value = rng.betavariate(given["a"], given["b"])
        return self._quantised(value)

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """One value chosen by the sampler of ``trial``, which knows it as ``name``.

        Raises UserError for a distribution that TPE has no prior for.
        """
        self.refuse("bayes")
        given = self.arguments
        match self.distribution.removeprefix("q_").removesuffix("_values"):
            case "constant":
                return plain(given["value"])
            case "categorical":
                return _choose(trial, name, _distinct(given["values"]))
            case "int_uniform":
                return trial.suggest_int(name, given["min"], given["max"])
            case "uniform":
                value = trial.suggest_float(name, given["min"], given["max"])
            case "log_uniform" | "inv_log_uniform":
                low, high = self._limits()
                value = trial.suggest_float(name, low, high, log=True)
            case normal:  # or log_normal
                standard = NormalDist().inv_cdf(trial.suggest_float(name, TAIL, 1 - TAIL))
                value = given["mu"] + given["sigma"] * standard
                value = math.exp(value) if normal == "log_normal" else value
        return self._quantised(value)

    def _limits(self) -> tuple[float, float]:
        """Smallest and largest value of a distribution that is uniform in its logarithm.

        That holds for the inverse ones too: log(1 / x) is uniform where log(x) is.
        """
        low, high = self.arguments["min"], self.arguments["max"]
        if self.distribution.endswith("_values"):
            return low, high
        exponents = (-high, -low) if self.distribution.startswith("inv_") else (low, high)
        return math.exp(exponents[0]), math.exp(exponents[1])

    def _quantised(self, value: float) -> float:
        q = self.arguments.get("q")
        return value if q is None else _tidy(round(value / q) * q)


# --- values ---


def arguments(parameters: Mapping[str, Any]) -> list[str]:
    """A trial's values as the overrides that W&B's `${args}` makes of them: Python's `str`, sorted by name.

    Example:
        arguments({"model.dim": 96, "callbacks.prune": "null"}) == ["--callbacks.prune=null", "--model.dim=96"]
    """
    return [f"--{name}={parameters[name]}" for name in sorted(parameters)]


def check_carried(value: Any) -> None:
    """Raise UserError for a value that the command line would turn into another one.

    The text `null` may: it is the only way to say null, which W&B would write as `None`, a text to YAML.
    """
    if value == "null":
        return
    if value is None:
        raise UserError("null would arrive as the text 'None'; write it in quotes, as a text, which is read as null.")
    try:
        arrives = parse_value(str(plain(value)), "value")
    except UserError:
        raise UserError(f"{_shown(value)} cannot be read back from a command line.") from None
    if not _same(arrives, plain(value)):
        raise UserError(f"{_shown(value)} would arrive as {_shown(arrives)}, through a command line.")


def plain(value: Any) -> Any:
    """``value`` with floats without fraction as ints."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def _tidy(value: float) -> float:
    """Without the noise of floats: 0.3, not 0.30000000000000004."""
    return plain(float(f"{value:.12g}")) if isinstance(value, float) else value


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(plain(value), sort_keys=True): plain(value) for value in values}.values())


def _choose(trial: "optuna.Trial", name: str, values: list[Any]) -> Any:
    """Optuna keeps plain choices that differ under `==`; others are known to it by their JSON."""
    if all(isinstance(value, (str, int, float)) for value in values) and len(set(values)) == len(values):
        return trial.suggest_categorical(name, values)
    texts = [json.dumps(value) for value in values]
    return values[texts.index(trial.suggest_categorical(name, texts))]


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, default=str) == json.dumps(second, default=str)


# --- checks of an entry ---


def _inferred(spec: Mapping[str, Any]) -> str | None:
    """The distribution that W&B takes an entry without one for."""
    if "value" in spec:
        return "constant"
    if "probabilities" in spec:
        return "categorical_w_probabilities"
    if "values" in spec:
        return "categorical"
    if "min" not in spec and "max" not in spec:
        known = {key for names in ARGUMENTS.values() for key in names} | {"distribution"}
        unknown = next((key for key in spec if key not in known), None)
        hint = f" Unknown key '{unknown}'.{did_you_mean(str(unknown), known)}" if unknown is not None else ""
        raise UserError(f"needs values, value, min and max, or a distribution.{hint}")
    whole = {isinstance(spec[end], int) for end in ("min", "max") if isinstance(spec.get(end), (int, float))}
    if len(whole) > 1:  # W&B's schema takes it for uniform, but its client refuses to send it
        raise UserError(f"min {spec['min']!r} and max {spec['max']!r}: write both with a point, or both without.")
    return "uniform" if False in whole else "int_uniform"


def _check(distribution: str, given: Mapping[str, Any]) -> None:
    """Refuse arguments that W&B's schema or the mathematics refuse."""
    for key, value in given.items():
        if key in ("value", "values", "probabilities"):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{key}: expected a number, got {_shown(value)}.{exponent_hint(value)}")
        if distribution == "int_uniform" and not isinstance(value, int):
            raise UserError(f"{key}: int_uniform takes whole numbers, got {value!r}.")
    rules: dict[str, tuple[Callable[[float], bool], str]] = {
        "q": (lambda q: q > 0, "above 0"),
        "sigma": (lambda sigma: sigma >= 0, "at least 0"),
        "a": (lambda a: a > 0, "above 0"),
        "b": (lambda b: b > 0, "above 0"),
    }
    for key, (holds, wanted) in rules.items():
        if key in given and not holds(given[key]):
            raise UserError(f"{key}: expected a number {wanted}, got {given[key]!r}.")
    if "min" in given:
        if given["min"] >= given["max"]:
            raise UserError(f"min {given['min']} is not less than max {given['max']}.")
        if distribution.endswith("_values") and given["min"] <= 0:
            raise UserError(f"min: {distribution} takes limits above 0, got {given['min']}.")
        if distribution.removeprefix("q_") in ("log_uniform", "inv_log_uniform"):
            _check_exponents(distribution, given)
    if "log_normal" in distribution and given["mu"] + 10 * given["sigma"] > 700:
        raise UserError(f"{distribution}: mu and sigma are of the logarithm; these would overflow.")
    if "values" in given:
        _check_values(given)
    if "value" in given:
        check_carried(given["value"])


def _check_exponents(distribution: str, given: Mapping[str, Any]) -> None:
    if max(abs(given["min"]), abs(given["max"])) > 700:
        raise UserError(
            f"{distribution} takes exponents of e, got {given['min']} to {given['max']}; see {distribution}_values."
        )


def _check_values(given: Mapping[str, Any]) -> None:
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise UserError(f"values: expected a list of at least one value, got {_shown(values)}.")
    for value in values:
        check_carried(value)
    if "probabilities" not in given:
        return
    weights = given["probabilities"]
    numbers = isinstance(weights, list) and all(
        isinstance(weight, (int, float)) and not isinstance(weight, bool) and weight >= 0 for weight in weights
    )
    if not numbers or len(weights) != len(values) or not math.isclose(sum(weights), 1.0, rel_tol=1e-5, abs_tol=1e-8):
        raise UserError(f"probabilities: expected {len(values)} numbers from 0 that sum to 1, got {_shown(weights)}.")


def exponent_hint(value: Any) -> str:
    """How to write a number that YAML 1.1, which W&B reads, takes for a text; empty for anything else."""
    match = re.fullmatch(r"([-+]?\d+)(e[-+]?\d+)", value, re.IGNORECASE) if isinstance(value, str) else None
    return f" Write {match[1]}.0{match[2]}: without the point it is a text to W&B." if match else ""


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
