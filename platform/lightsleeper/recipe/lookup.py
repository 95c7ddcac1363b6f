"""Where recipes lie: by path, by run folder, or shipped and known by name."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.run_folder import RECIPE

Kind = Literal["recipes", "sweeps"]


def shipped_folders(kind: Kind = "recipes") -> list[Path]:
    """Folders that hold what is shipped: inside the wheel, or the checkout that an editable install points to."""
    package = Path(__file__).resolve().parents[1]
    folders = [package / "_shipped" / kind]
    checkout = package.parents[1]
    if (checkout / "pyproject.toml").is_file():
        folders.append(checkout / kind)
    return [folder for folder in folders if folder.is_dir()]


def shipped(kind: Kind = "recipes") -> dict[str, Path]:
    """Shipped recipes and overlays (`kws_dsp`, `overlays/libriphrase`), or sweeps, by name, sorted."""
    found: dict[str, Path] = {}
    for folder in shipped_folders(kind):
        for file in sorted(folder.rglob("*.yaml")):
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def find(name: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe given as path, as run folder, or as shipped name; ``beside`` is a folder looked into first.

    Raises UserError with the nearest known name.
    """
    text = str(name)
    bare = text.removesuffix(".yaml")
    candidates = [Path(text), Path(text) / RECIPE]
    if beside is not None:
        candidates = [beside / f"{bare}.yaml", *candidates]
    if bare == text:
        candidates.append(Path(f"{text}.yaml"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = shipped()
    wanted = bare.removeprefix("recipes/")
    for key in (bare, wanted):
        if key in known:
            return known[key]
    if Path(text).is_dir():
        raise UserError(f"'{text}' is a folder without {RECIPE}; expected a recipe file or a run folder.")
    raise UserError(f"no recipe '{text}'.{_nearest(text, wanted, known)}")


def _nearest(text: str, wanted: str, known: Iterable[str]) -> str:
    if (twin := Path(text).with_suffix(".yaml")).is_file():
        return f" Did you mean '{twin}'?"
    names = {Path(key).name: key for key in known} | {key: key for key in known}  # overlays without their folder, too
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    return f" Did you mean '{names[near[0]]}'?" if near else did_you_mean(wanted, known)


def header(file: Path) -> str:
    """First comment line of a recipe without the hash; empty when it has none."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.lstrip("#").strip()
        if line.strip("# "):
            break
    return ""
