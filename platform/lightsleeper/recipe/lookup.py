"""Where recipes lie: by path, by run folder, or shipped and known by name."""

import re
from pathlib import Path
from typing import Literal

from lightsleeper.errors import UserError, did_you_mean

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
    bare = re.sub(r"\.ya?ml$", "", text)
    candidates = [Path(text), Path(text) / "recipe.yaml"]
    if beside is not None:
        candidates = [beside / f"{bare}.yaml", *candidates]
    if bare == text:
        candidates.append(Path(f"{text}.yaml"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = shipped()
    for key in (bare, bare.removeprefix("recipes/")):
        if key in known:
            return known[key]
    if Path(text).is_dir():
        raise UserError(f"'{text}' is a folder without recipe.yaml; expected a recipe file or a run folder.")
    hint = did_you_mean(bare.removeprefix("recipes/"), known)
    if "Valid:" in hint:  # a bare file name of an overlay is near to its full name
        short = {key.rsplit("/", 1)[-1]: key for key in known}
        close = did_you_mean(Path(bare).name, short)
        for stem, key in short.items():
            if close == f" Did you mean '{stem}'?":
                hint = f" Did you mean '{key}'?"
    raise UserError(f"no recipe '{text}'.{hint}")


def header(file: Path) -> str:
    """First comment line of a recipe without the hash; empty when it has none."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.lstrip("#").strip()
        if line.strip("# "):
            break
    return ""
