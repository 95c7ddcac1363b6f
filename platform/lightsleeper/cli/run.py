"""`lightning run`: train, compress, test, export and benchmark a recipe, or continue a run."""

import argparse
import os
import signal
import sys

HELP = (
    "Run a recipe and overlays, merged left to right, then --section.key=value overrides. Results, record and log go "
    "to runs/<recipe>/<run id>/."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipes", nargs="*", metavar="RECIPE", help="recipe file, shipped name or run folder; overlays"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue a run: its id, the start of it, its folder, or last")
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.errors import UserError
    from lightsleeper.run_folder import RECIPE
    from lightsleeper.tracking.runs import find, runs_root

    if not args.recipes and args.resume is None:
        raise UserError("no recipe given; `lightning recipes` lists them, --resume continues a run.")
    root = runs_root(args.runs_dir)
    resume = args.resume and find(args.resume, root) if not args.recipes else args.resume
    from lightsleeper import recipe

    files = args.recipes or [resume / RECIPE]
    merged = recipe.load(files, args.overrides)
    from lightsleeper import experiment  # torch and lightning: seconds, so a wrong recipe name is told before

    try:
        experiment.run(merged, root, resume)
    except KeyboardInterrupt:  # the run has said how to continue
        if os.environ.get("WANDB_SWEEP_ID"):
            die_of_sigterm()
        return 130
    return 0


def die_of_sigterm() -> None:
    """End as the signal would have ended the process, once the run has been closed.

    An agent of a W&B sweep stops a run with SIGTERM. It counts positive exit codes as failures and gives up after a
    few, so a sweep whose first runs were stopped early would end there.
    """
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
