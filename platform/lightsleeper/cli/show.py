"""`lightning show`: one run on one page."""

import argparse

HELP = "Show a run: status, quality with intervals, size, latency, where things lie."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="last", metavar="RUN", help="id, start of an id, folder, or last")
    parser.add_argument("--all", action="store_true", help="every metric")
    parser.add_argument("--json", action="store_true", help="the record as it is")
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.run_folder import RECORD
    from lightsleeper.tracking.record import read, status_of
    from lightsleeper.tracking.runs import find, runs_root

    folder = find(args.run, runs_root(args.runs_dir))
    record = read(folder)
    if args.json:
        print((folder / RECORD).read_text(encoding="utf-8"))
        return 0
    from rich.console import Console

    from lightsleeper.tracking.page import next_steps, page, resume_line

    console = Console(highlight=False, soft_wrap=True)
    for table in page(record, folder, everything=args.all):
        console.print(table)
    status = status_of(record)
    lines = next_steps(record, folder) if status == "finished" else []
    lines += [resume_line(folder)] if status in ("failed", "interrupted", "died") else []
    for line in lines:
        console.print(line, markup=False)
    return 0
