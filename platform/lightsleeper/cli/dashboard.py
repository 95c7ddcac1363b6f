"""`lightning dashboard`: quality against cost of all runs, as a page, as figures, or on W&B."""

import argparse
import contextlib
from typing import Any

HELP = (
    "Show all runs: quality against latency, size and context with the Pareto front, sweeps, operating points, run "
    "against run, training curves. Writes one HTML page that opens without a network."
)
FORMATS = ("png", "svg", "csv")
PORT = 8765
RELOAD_S = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")
    parser.add_argument(
        "--out", metavar="PATH", help="page to write, default dashboard.html beside the runs; with --format a folder"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--watch", action="store_true", help="write it again whenever a record changes")
    parser.add_argument(
        "--serve", nargs="?", type=int, const=PORT, metavar="PORT", help=f"serve it on 127.0.0.1, default port {PORT}"
    )
    parser.add_argument("--format", choices=FORMATS, help="write figures with their tables instead of the page")
    parser.add_argument("--recipe", action="append", default=[], metavar="NAME", help="only runs of this recipe")
    parser.add_argument("--sweep", action="append", default=[], metavar="NAME", help="only runs of this sweep")
    parser.add_argument("--x", metavar="METRIC", help="cost axis to start with, such as artifact.gzip_bytes")
    parser.add_argument("--y", metavar="METRIC", help="quality axis to start with, such as test/auc_hard")
    parser.add_argument("--machine", metavar="FINGERPRINT", help="latencies of this machine, or all of them mixed")
    parser.add_argument("--project", metavar="ENTITY/PROJECT", help="with a W&B key: its runs too")
    parser.add_argument("--wandb", action="store_true", help="write the views as a W&B workspace and report")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from lightsleeper.dashboard import make
    from lightsleeper.tracking.runs import runs_root

    _refuse_together(args)
    root = runs_root(args.runs_dir)
    source = make.Source(root, args.recipe, args.sweep, args.project, args.x, args.y, args.machine)
    if args.serve is not None:
        return _serve(args, source)
    if args.format:
        return _figures(source, Path(args.out or root / "figures"), args.format)
    if args.wandb:
        from importlib import import_module

        for line in import_module("lightsleeper.dashboard.workspace").publish(source.payload(), args.project):
            print(line)
        return 0
    path = Path(args.out or root / make.PAGE)
    payload = source.payload()
    live = {"reload_s": RELOAD_S} if args.watch else {}
    make.write_page({**payload, **live}, path)
    print(_told(payload, path))
    if args.open:
        _open(path.resolve().as_uri())
    if args.watch:
        print(f"watching; an open page reloads every {RELOAD_S} s while it is left alone; Ctrl-C ends")
        with contextlib.suppress(KeyboardInterrupt):
            make.watch(source, lambda payload: make.write_page({**payload, **live}, path), print)
        make.write_page(source.payload(), path)  # one that stays as it is
    return 0


def _refuse_together(args: argparse.Namespace) -> None:
    """One thing at a time; and no option that would be passed over in silence."""
    from lightsleeper.errors import UserError

    given = [f"--{name}" for name, value in vars(args).items() if not (value is None or value is False or value == [])]
    for way, others in {
        "--format": ("--serve", "--wandb", "--watch", "--open"),
        "--serve": ("--wandb", "--watch", "--out"),
        "--wandb": ("--watch", "--open", "--out"),
    }.items():
        wrong = next((other for other in others if way in given and other in given), None)
        if wrong:
            raise UserError(f"{way} and {wrong} do not go together.")


def _serve(args: argparse.Namespace, source: Any) -> int:
    from lightsleeper.dashboard import make
    from lightsleeper.dashboard.payload import to_json
    from lightsleeper.dashboard.serve import Server

    live = make.Live(source)
    print(_told(live.look()[0], None))
    pages = {
        "/": ("text/html", live.page),
        "/payload.json": ("application/json", lambda: to_json(live.look()[0])),
    }
    with Server(args.serve, pages) as server:
        print(f"{server.url} for this machine only, up to date at each reload; Ctrl-C ends", flush=True)
        if args.open:
            _open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def _figures(source: Any, folder: Any, kind: str) -> int:
    from lightsleeper.dashboard import figures
    from lightsleeper.errors import UserError

    payload = source.payload()
    print(_told(payload, None))
    try:
        for path in figures.write(payload, folder, kind):
            print(path)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}.") from None
    return 0


def _told(payload: dict[str, Any], path: Any) -> str:
    """One line; and one for each file that is no record."""
    from lightsleeper.tracking.page import byte_text

    count = len(payload["runs"]["id"])
    where = f", {byte_text(path.stat().st_size)} in {path}" if path else ""
    lines = [f"{count} run{'' if count == 1 else 's'} of {payload['source']}{where}"]
    lines += [f"skipped {entry['path']}: {entry['reason']}" for entry in payload["skipped"][:5]]
    more = len(payload["skipped"]) - 5 + payload["more_skipped"]
    lines += [f"skipped {more} more"] if more > 0 else []
    return "\n".join(lines)


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        print(f"no browser was found; open {url}")
