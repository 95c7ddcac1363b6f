"""Short class names -> dotted paths. Looking a name up reads files and imports nothing."""

import re
from importlib.util import find_spec
from pathlib import Path

_NAMED = re.compile(r"^CATALOG = \((.*?)\)", re.MULTILINE | re.DOTALL)


def _shipped(package: str) -> dict[str, str]:
    """Short name -> dotted path of the classes that the files of a package offer to recipes, in their ``CATALOG``."""
    top, _, below = package.partition(".")
    spec = find_spec(top)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / below.replace(".", "/")
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.py")):
        if named := _NAMED.search(file.read_text(encoding="utf-8")):
            found |= {name: f"{package}.{file.stem}.{name}" for name in re.findall(r'"(\w+)"', named[1])}
    return found


MODELS = _shipped("lightsleeper.models")
DATA = _shipped("lightsleeper.data")
COMPRESSIONS = _shipped("lightsleeper_callbacks")
CALLBACKS: dict[str, str] = COMPRESSIONS | {
    name: f"lightning.pytorch.callbacks.{name}"
    for name in (
        "BackboneFinetuning",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateMonitor",
        "ModelSummary",
        "Timer",
        "WeightAveraging",
        "EMAWeightAveraging",
    )
}
SHORT_NAMES: dict[str, str] = {**MODELS, **DATA, **CALLBACKS}
_BY_PATH = {path: name for name, path in SHORT_NAMES.items()}


def dotted_path(name: str) -> str:
    """The dotted path of a short name; any other name comes back as it is."""
    return SHORT_NAMES.get(name, name)


def short_name(path: str) -> str:
    """The short name of a shipped class given as dotted path; any other path comes back as it is."""
    return _BY_PATH.get(path, path)


def is_shipped(name: str) -> bool:
    """Whether ``name`` is a short name or the dotted path of one."""
    return name in SHORT_NAMES or name in _BY_PATH
