"""`lightning evaluate` of any family without a page of its own: words, texts, images, language."""

import argparse
from pathlib import Path

from lightsleeper.cli.evaluate import (
    describe,
    evaluation_sets,
    finite,
    folders_of,
    print_conditions,
    print_measurements,
)
from lightsleeper.errors import UserError
from lightsleeper.files import write_json


def main(path: Path, args: argparse.Namespace) -> int:
    """What the family's own test measures, on data of a recipe."""
    if folders_of(args.data):
        raise UserError("--data: a folder tests typed keywords and wake words; this model needs the data of a recipe.")
    import logging
    import warnings

    import lightning as L
    import torch

    from lightsleeper.cli.evaluate_choices import compared_with
    from lightsleeper.deploy.finalize import load_model
    from lightsleeper.recipe import load
    from lightsleeper.recipe.parsing import build_data
    from lightsleeper.stages.deliver import tested

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # accelerators there are, and a tip
    warnings.filterwarnings("ignore", module="lightning")
    data = build_data(load(args.data))
    torch.set_num_threads(args.threads)
    sets, details = {}, {}
    for name, loader in evaluation_sets(data, args.split).items():
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False,
        )  # fmt: skip
        model = load_model(path)
        model.check_data(data)
        found = tested(trainer, model, dataloaders=loader)
        sets[name] = {key.removeprefix("test/"): value for key, value in found.items()}
        if model.details:
            details[name] = model.details["test"]
            if args.against:
                sets[name] |= compared_with(args.against, name, details[name])
        print_measurements(name, sets[name])
    if args.against and not details:
        raise UserError("--against: these data ask no multiple choice; LocalText does with data.choice_items.")
    conditions = describe(path, data, args)
    print_conditions(conditions)
    if args.json:
        plain = {name: {key: finite(value.to_dict()) for key, value in found.items()} for name, found in sets.items()}
        content = {name: {"shipped": found} for name, found in plain.items()}
        write_json(Path(args.json), {"conditions": conditions, "sets": content, "details": details}, indent=1)
    return 0
