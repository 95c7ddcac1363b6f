"""`lightning evaluate PRED.csv --truth TRUTH.csv`: predictions of active speakers by AVA's official rules."""

import argparse
from pathlib import Path

from lightsleeper.errors import UserError


def main(args: argparse.Namespace) -> int:
    if args.truth is None:
        raise UserError(f"{args.source} holds predictions: give the labelled CSV file with --truth TRUTH.csv.")
    from lightsleeper.cli.evaluate import finite, print_measurements
    from lightsleeper.data.ava_csv import read_rows, scores_of

    truth = read_rows(Path(args.truth))
    scores = scores_of(read_rows(Path(args.source), score=True), truth)
    import numpy as np
    import torch

    from lightsleeper.metrics.active_speaker import ActiveSpeakerAP

    metric = ActiveSpeakerAP(threshold=0.5 if args.threshold is None else args.threshold)
    faces = truth.faces_in_frame()
    entities, entity = np.unique(np.char.add(np.char.add(truth.video, "/"), truth.entity), return_inverse=True)
    for number, rows in enumerate(np.split(np.argsort(entity, kind="stable"), np.cumsum(np.bincount(entity))[:-1])):
        columns = {"label3": truth.label[rows], "speakers": faces[rows]}
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        metric.update(torch.from_numpy(scores[rows]), {**batch, "entity": str(entities[number])})
    found = metric.results("")
    print_measurements(args.truth, found)
    print(
        f"{args.source}: {len(truth)} rows of {len(entities)} faces in {len(set(truth.video))} videos, official rules"
    )
    if args.json:
        from lightsleeper.files import write_json

        plain = {name: finite(value.to_dict()) for name, value in found.items()}
        write_json(Path(args.json), {"predictions": args.source, "truth": args.truth, "metrics": plain}, indent=1)
    return 0
