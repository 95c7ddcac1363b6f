"""`lightning runs`: list, compare, clean."""

import argparse
from typing import Any

HELP = "List runs; `runs compare A B` shows what differs; `runs clean` removes (a dry run unless --yes)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", metavar="ACTION", help="list (default), compare or clean")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="compare: two runs; clean: only these; list: a recipe")
    parser.add_argument("--failed", action="store_true", help="clean: failed and interrupted runs")
    parser.add_argument("--died", action="store_true", help="clean: runs whose process is gone")
    parser.add_argument("--older-than", metavar="AGE", help="clean: runs started longer ago, such as 30d or 12h")
    parser.add_argument("--yes", action="store_true", help="clean: delete instead of telling what would be deleted")
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.errors import UserError, did_you_mean
    from lightsleeper.tracking.runs import runs_root

    root = runs_root(args.runs_dir)
    actions = {"list": _list, "compare": _compare, "clean": _clean}
    if args.action not in actions:
        raise UserError(f"unknown action '{args.action}'.{did_you_mean(args.action, actions)}")
    return actions[args.action](args, root)


def _list(args: argparse.Namespace, root: Any) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lightsleeper.tracking.page import duration, measured
    from lightsleeper.tracking.runs import scan

    runs, unreadable = scan(root)
    runs = [found for found in runs if not args.runs or found.record.recipe in args.runs]
    console = Console(highlight=False, soft_wrap=True)
    if not runs and not unreadable:
        console.print(f"no runs under {root}", markup=False)
        return 0
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("run", "recipe", "status", "time", "quality"):
        table.add_column(title, no_wrap=title == "run", overflow="fold")
    for found in runs:
        record = found.record
        first = next((name for name in [*record.headline, *record.metrics] if name in record.metrics), None)
        quality = f"{first} {measured(record.metrics[first])}" if first else record.error or ""
        cells = (record.run_id, record.recipe, found.status, duration(sum(record.seconds.values())), quality)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    for line in unreadable:
        console.print(f"warning: {line}", markup=False)
    return 0


def _compare(args: argparse.Namespace, root: Any) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lightsleeper.errors import UserError
    from lightsleeper.tracking.page import compare, number
    from lightsleeper.tracking.record import read
    from lightsleeper.tracking.runs import differences, find

    if len(args.runs) != 2:
        raise UserError(f"runs compare: expected two runs, got {len(args.runs)}.")
    first, second = (read(find(name, root)) for name in args.runs)
    console = Console(highlight=False, soft_wrap=True)
    names = (first.run_id, second.run_id)
    changed = differences(first, second)
    if changed:
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("setting", *names):
            table.add_column(escape(title), overflow="fold")
        for name, pair in changed.items():
            table.add_row(escape(name), *(escape(number(value)) for value in pair))
        console.print(table)
    else:
        console.print("same settings", markup=False)
    console.print(compare(names, (first.metrics, second.metrics)))
    sizes = [(key, first.size.get(key), second.size.get(key)) for key in dict.fromkeys([*first.size, *second.size])]
    for key, ours, theirs in sizes:
        console.print(f"{key}: {number(ours)} | {number(theirs)}", markup=False)
    return 0


def _clean(args: argparse.Namespace, root: Any) -> int:
    from lightsleeper.errors import UserError
    from lightsleeper.tracking.page import byte_text
    from lightsleeper.tracking.runs import find, folder_bytes, parse_age, removable, remove, scan

    statuses = ({"failed", "interrupted"} if args.failed else set()) | ({"died"} if args.died else set())
    age = parse_age(args.older_than) if args.older_than else None
    if not statuses and age is None and not args.runs:
        raise UserError("runs clean: say which: --failed, --died, --older-than 30d, or runs by name.")
    runs, _ = scan(root)
    if args.runs:
        chosen = {find(name, root) for name in args.runs}
        runs = [found for found in runs if found.folder in chosen]
    total = 0
    for found in removable(runs, statuses, age):
        size = folder_bytes(found.folder)
        if args.yes and not remove(found):
            print(f"kept    {found.folder} (in use)")
            continue
        total += size
        print(f"{'removed' if args.yes else 'would remove'} {found.folder} ({found.status}, {byte_text(size)})")
    print(f"{byte_text(total)} {'freed' if args.yes else 'would be freed; --yes deletes'}")
    return 0
