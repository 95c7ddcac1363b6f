"""RUN|MODEL.onnx arguments: one way to name a model for export, evaluate and detect."""

import argparse
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.errors import UserError
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, RECORD

if TYPE_CHECKING:
    from lightsleeper.deploy.detector import StreamModel
    from lightsleeper.deploy.many_keywords import ManyKeywords
    from lightsleeper.deploy.runtime import Matcher
    from lightsleeper.deploy.spotting import StreamingSpotter

FILES = {".onnx": "an ONNX file", ".tflite": "a LiteRT file"}
SOURCE_HELP = "run folder, run id, 'last', folder with model.json, or exported MODEL.onnx"


def add_source(parser: argparse.ArgumentParser, onnx: bool = True) -> None:
    text = SOURCE_HELP if onnx else SOURCE_HELP.partition(", or")[0].replace("'last', folder", "'last', or folder")
    parser.add_argument("source", metavar="RUN|MODEL.onnx" if onnx else "RUN", help=text)
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie; default $LIGHTSLEEPER_RUNS, else ./runs")


def locate(source: str, runs_dir: str | None) -> Path:
    """The ONNX file or the folder with `model.json` that ``source`` names. Raises UserError."""
    from lightsleeper.tracking import runs

    path = Path(source)
    if path.suffix in FILES:
        if not path.is_file():
            raise UserError(f"{source} does not exist: expected {FILES[path.suffix]}.")
        return path
    if path.is_file():
        raise UserError(f"{source}: expected a run folder, a run id or an .onnx file.")
    from lightsleeper.deploy.finalize import model_folder

    if (path / ARCHITECTURE).is_file():
        return path
    return model_folder(runs.find(source, runs.runs_root(runs_dir)))


class Kind(Enum):
    """What a model is asked, and with which command."""

    DETECTOR = "a wake-word detector"
    SPOTTER = "a word spotter"
    SPEAKERS = "a judge of who speaks in a video"
    TYPED = "a matcher of typed keywords"
    OTHER = "another model"


def kind(path: Path) -> Kind:
    """Of what `locate` found. Raises UserError for a damaged file."""
    if path.suffix == ".tflite":
        return Kind.DETECTOR  # nothing else is written as one
    return _kind_of_graph(path) if path.suffix == ".onnx" else _kind_of_folder(path)


def _kind_of_graph(path: Path) -> Kind:
    from lightsleeper.deploy.hops import streams
    from lightsleeper.deploy.onnx_graph import OnnxGraph
    from lightsleeper.deploy.speaking import is_graph
    from lightsleeper.deploy.spotting import OUTPUTS

    graph = OnnxGraph(path)
    if is_graph(graph.inputs, graph.outputs):
        return Kind.SPEAKERS
    if {"phones", "tokens"} & graph.inputs.keys():
        return Kind.TYPED
    if streams(graph.inputs, graph.outputs, OUTPUTS):
        return Kind.SPOTTER
    if "state" in graph.inputs and {"score", "next_state"} <= set(graph.outputs) and "word" not in graph.outputs:
        return Kind.DETECTOR
    return Kind.OTHER


def _kind_of_folder(path: Path) -> Kind:
    from lightsleeper.deploy.finalize import model_class, read_description
    from lightsleeper.models.active_speaker import ActiveSpeaker
    from lightsleeper.models.keyword import KeywordFamily
    from lightsleeper.models.wakeword import WakeWord
    from lightsleeper.models.word_spotter import WordSpotter

    families: dict[type, Kind] = {
        ActiveSpeaker: Kind.SPEAKERS,
        KeywordFamily: Kind.TYPED,
        WordSpotter: Kind.SPOTTER,
        WakeWord: Kind.DETECTOR,
    }
    found = model_class(read_description(path)["class_path"])
    return next((families[family] for family in families if issubclass(found, family)), Kind.OTHER)


def open_spotter(path: Path, source: str, threads: int = 1, threshold: float | None = None) -> "StreamingSpotter":
    """A word spotter from what `locate` found for ``source``; ``threshold`` None: its own. Raises UserError."""
    from lightsleeper.deploy.spotting import OnnxSpotter, SpotterModel, StreamingSpotter, TorchSpotter

    model: SpotterModel
    if path.suffix == ".onnx":
        model = OnnxSpotter(path, threads)
    else:
        import torch

        from lightsleeper.deploy.finalize import load_model

        torch.set_num_threads(threads)
        loaded = load_model(path)
        model = TorchSpotter(loaded, loaded.export_spec()[0].metadata)
    try:
        return StreamingSpotter(model, threshold)
    except UserError as error:
        raise UserError(f"{source} has no calibrated threshold: give one with --threshold.") from error


def open_detector(path: Path, source: str, threads: int = 1) -> "StreamModel":
    """A streaming wake-word model from what `locate` found for ``source``. Raises UserError for other models."""
    from lightsleeper.deploy.detector import TorchStream, open_stream

    if kind(path) is not Kind.DETECTOR:
        what = "no streaming state" if path.suffix == ".onnx" else f"a {_class_name(path)}"
        raise UserError(
            f"{source} is no wake-word detector (it has {what}); `lightning detect {source} --keyword ... FILE` finds "
            "typed phrases."
        )
    if path.suffix in FILES:
        return open_stream(path, threads, recorded_threshold(path) if path.suffix == ".tflite" else float("nan"))
    import torch

    from lightsleeper.deploy.finalize import load_model

    torch.set_num_threads(threads)
    model = load_model(path)
    return TorchStream(model, model.export_spec()[0].metadata)


def recorded_threshold(path: Path) -> float:
    """The threshold that the record of the run around ``path`` has for this very file; nan where there is none."""
    from lightsleeper.files import sha256
    from lightsleeper.tracking.record import read

    folder = path.resolve().parent
    run = folder.parent if folder.name == EXPORT else folder
    if not (run / RECORD).is_file():
        return float("nan")
    digest = sha256(path)
    mine = [entry for entry in read(run).artifacts if entry.get("sha256") == digest and "threshold" in entry]
    return float(mine[0]["threshold"]["value"]) if mine else float("nan")


def _class_name(folder: Path) -> str:
    from lightsleeper.deploy.finalize import read_description

    return str(read_description(folder)["class_path"]).rpartition(".")[2]


def open_matcher(path: Path, threads: int = 1, source: str | None = None) -> "Matcher":
    """A matcher from what `locate` found: ONNX through ONNX Runtime, a model folder through torch."""
    from lightsleeper.deploy.runtime import OnnxModel, TorchModel

    if kind(path) is Kind.DETECTOR:
        raise UserError(
            f"{source or path} is {Kind.DETECTOR.value}, its phrase is fixed: `lightning listen {source or path} FILE`."
        )
    if path.suffix == ".onnx":
        return OnnxModel(path, threads)
    import torch

    from lightsleeper.deploy.finalize import load_model

    torch.set_num_threads(threads)
    return TorchModel(load_model(path))


def open_keywords(path: Path, threads: int = 1, source: str | None = None) -> "Matcher | ManyKeywords":
    """As `open_matcher`; where the model has the graphs for it, one that takes all keywords at once."""
    from lightsleeper.deploy.many_keywords import ManyKeywords, has_graphs
    from lightsleeper.deploy.runtime import TorchModel

    if path.suffix == ".onnx":
        return ManyKeywords.open(path, threads) if has_graphs(path) else open_matcher(path, threads, source)
    matcher = open_matcher(path, threads, source)
    assert isinstance(matcher, TorchModel)
    return matcher.many() or matcher


def positive(text: str) -> int:
    """Argument type: a whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return value
