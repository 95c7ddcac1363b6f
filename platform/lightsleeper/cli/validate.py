"""`lightning validate`: parse and check recipes without running them."""

import argparse
import sys
from pathlib import Path

from lightsleeper.errors import UserError

HELP = (
    "Parse recipes, resolve every class and argument, construct what needs no earlier step; their data need not be "
    "there. Files that name no model and data class of their own are overlays of the recipe before them, as on the "
    "line of `lightning run`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="file or shipped name; overlays follow their base")
    parser.add_argument("--print", action="store_true", help="print the merged recipe as YAML")
    parser.add_argument("--resolved", action="store_true", help="print the recipe with every default written out")
    parser.add_argument("--trust", action="store_true", help="import classes that lightsleeper does not ship")


def main(args: argparse.Namespace) -> int:
    failures: list[str] = []
    for files in groups(args.recipes):
        try:
            validate(files, args)
        except UserError as error:
            if len(args.recipes) == 1:
                raise
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr)
    return 2 if failures else 0


def groups(names: list[str]) -> list[list[str]]:
    """Recipes with the overlays that follow them."""
    from lightsleeper.recipe import find, parse

    found: list[list[str]] = []
    for name in names:
        try:
            config, _ = parse(find(name))
        except UserError:
            found.append([name])  # told again, and reported, when this group is loaded
            continue
        parts = [config.get("model"), config.get("data")]
        if found and not all(
            isinstance(part, str) or (isinstance(part, dict) and "class_path" in part) for part in parts
        ):
            found[-1].append(name)
        else:
            found.append([name])
    return found


def validate(files: list[str], args: argparse.Namespace) -> None:
    """Check one recipe and the recipes it requires. Raises UserError."""
    from lightsleeper.recipe import Recipe, dump, load, required

    recipe = load([Path(file) for file in files], args.overrides)
    if args.print:
        print(dump(recipe.config), end="", flush=True)
    from lightsleeper.recipe.parsing import check

    def steps(outer: Recipe) -> None:
        for step in required(outer).values():
            check(step, args.trust)
            steps(step)

    resolved = check(recipe, args.trust)
    steps(recipe)
    if args.resolved:
        print(dump(resolved), end="")
    parts = [f"{resolved['model']['class_path']} on {resolved['data']['class_path']}"]
    parts += [f"callbacks {', '.join(resolved['callbacks'])}"] if resolved["callbacks"] else []
    parts += [f"requires {', '.join(step['recipe'] for step in resolved['requires'].values())}"] * bool(
        resolved["requires"]
    )
    report = sys.stderr if args.print or args.resolved else sys.stdout  # the YAML alone goes through a pipe
    print(f"ok: {' + '.join(files)}: {'; '.join(parts)}", file=report)
