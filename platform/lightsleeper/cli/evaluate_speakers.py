"""`lightning evaluate` of active speakers: a model on tracks, or predictions in a file by AVA's official rules."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightsleeper.data.track_source import Track
    from lightsleeper.deploy.speaking import SpeakerModel
    from lightsleeper.metrics.measurement import Measurement


def main(path: Path, args: argparse.Namespace) -> int:
    """A run, or an exported file frame by frame as a device would: test metrics, and predictions where asked for."""
    from lightsleeper.cli.detect_speakers import open_model
    from lightsleeper.cli.evaluate import describe, own_data, print_conditions, print_measurements

    args.data = args.data or [own_data(path, args.source)]
    tracks = open_tracks(args.data, args.split)
    model = open_model(path, args.threads, args.threshold)
    import torch

    from lightsleeper.data.ava_csv import rows_of, write_predictions
    from lightsleeper.data.track_batches import known
    from lightsleeper.metrics.active_speaker import ActiveSpeakerAP

    metric, seen, scores = ActiveSpeakerAP(threshold=model.threshold), [], []
    for number in range(len(tracks.frames)):
        track = tracks.track(number)
        scores.append(track_scores(model, track))
        metric.update(torch.from_numpy(scores[-1]), known(track))
        seen.append(without_pictures(track))
    found = metric.results("")
    print_measurements(args.split, found)
    conditions = describe(path, tracks.module, args)
    print_conditions(conditions)
    if args.predictions:
        out = Path(args.predictions)
        write_predictions(out, rows_of(seen, out), [float(score) for some in scores for score in some])
        print(f"written: {out}")
    write_json(args.json, conditions | {"sets": {args.split: {"shipped": plain(found)}}})
    return 0


def predictions(args: argparse.Namespace) -> int:
    """Predictions in a file against the labels of another."""
    if args.truth is None:
        raise UserError(f"{args.source} holds predictions: give the labelled CSV file with --truth TRUTH.csv.")
    from lightsleeper.cli.evaluate import print_measurements
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
    write_json(args.json, {"predictions": args.source, "truth": args.truth, "metrics": plain(found)})
    return 0


class _Tracks:
    """The tracks of a part, and the module they are from."""

    def __init__(self, module: Any, part: str) -> None:
        self.module, self._source = module, module.parts[part]
        self.frames, self.track = self._source.frames, self._source.track


def open_tracks(given: list[str], part: str) -> _Tracks:
    """The tracks that a recipe names, also behind embeddings of them. Raises UserError for data without faces."""
    from lightsleeper.cli.evaluate import data_module
    from lightsleeper.data.speaker_tracks import SpeakerTracks

    found: Any = data_module(given)
    found = getattr(found, "data", found)
    if not isinstance(found, SpeakerTracks):
        raise UserError(f"--data {' '.join(given)}: active speakers need tracks of faces, not {type(found).__name__}.")
    found.prepare_data()
    if not len(found.parts[part].frames):
        raise UserError(f"--split {part}: the data has no track there.")
    return _Tracks(found, part)


def track_scores(model: "SpeakerModel", track: "Track") -> "NDArray":
    """Of each frame (T,). Raises UserError where the faces are of another size than the model's."""
    import numpy as np

    from lightsleeper.data.mfcc import PER_FRAME, mfcc_of_frames
    from lightsleeper.deploy.speaking import SpeakerStream, TorchSpeakers

    size = track.faces.shape[-1]
    if size != model.pixels:
        raise UserError(f"the data's faces have {size} pixels, the model takes {model.pixels}: set the data's size.")
    mfcc = mfcc_of_frames(track.audio, len(track.faces), fps=track.fps)
    if isinstance(model, TorchSpeakers):  # the whole track at once gives the same, sooner
        return model.judge(np.array(track.faces), mfcc)
    stream = SpeakerStream(model)
    found = []
    for frame, face in enumerate(track.faces):
        found += stream.push({"": face}, mfcc[PER_FRAME * frame : PER_FRAME * (frame + 1)])
    return np.array([score for _, _, score in found + stream.finish()])


def without_pictures(track: "Track") -> "Track":
    """What a file of predictions needs of a track."""
    from dataclasses import replace

    return replace(track, faces=track.faces[:0], audio=track.audio[:0])


def plain(found: "dict[str, Measurement]") -> dict[str, Any]:
    from lightsleeper.cli.evaluate import finite

    return {name: finite(value.to_dict()) for name, value in found.items()}


def write_json(path: str | None, content: dict[str, Any]) -> None:
    if path:
        from lightsleeper.files import write_json as write

        write(Path(path), content, indent=1)
