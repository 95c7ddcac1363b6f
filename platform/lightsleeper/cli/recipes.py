"""`lightning recipes`: list the shipped recipes and sweeps, or copy them to a folder of one's own."""

import argparse
import shutil
from pathlib import Path

from lightsleeper.errors import UserError

HELP = "List the shipped recipes, overlays and sweeps with the first line of each."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--copy", metavar="DIR", type=Path, help="copy them all to DIR; never overwrites a file")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.recipe import header, shipped

    recipes = shipped()
    if not recipes:
        raise UserError("this installation carries no recipes; install the wheel, or from a checkout with `-e`.")
    files = recipes | {f"sweeps/{name}": file for name, file in shipped("sweeps").items()}
    if args.copy is not None:
        copy(files, args.copy)
        return 0
    width = max(map(len, files))
    for name, file in files.items():
        print(f"{name:<{width}}  {header(file)}".rstrip())
    return 0


def copy(files: dict[str, Path], folder: Path) -> None:
    """Copy ``files`` below ``folder``; raises UserError before the first copy when one of them exists there."""
    targets = {file: folder / f"{name}.yaml" for name, file in files.items()}
    taken = [target for target in targets.values() if target.exists()]
    if taken:
        raise UserError(f"'{taken[0]}' exists already ({len(taken)} of {len(targets)} files); nothing was copied.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder.")
    for file, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    print(f"{len(targets)} files copied to {folder}")
