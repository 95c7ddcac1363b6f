"""Running a deliverable: exported files through ONNX Runtime, or the same graphs of a torch model, with one interface.

A keyword matcher is `model.onnx` and, beside it, `enroll.onnx`, which turns typed phones into the tokens the matcher
takes. Input names decide what is fed, so matchers with other inputs (phones only, tokens only) run through this code:

    audio (1, samples) float32, audio_lengths (1,)      the clip
    phones, words (1, max_phones), phone_count (1,)     the typed text, zero and -1 padded
    tokens, token_count ...                             whatever the enrolment graph returns under that name
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightsleeper.deploy.many_keywords import ENCODER, ENROLL, MATCH, SHORTEST_S, ManyKeywords
from lightsleeper.deploy.onnx_graph import Arrays, Graph, OnnxGraph, Shape
from lightsleeper.deploy.parity import torch_outputs
from lightsleeper.errors import UserError
from lightsleeper.models.family import Batch, ExportGraph, Family
from lightsleeper.phones import PHONES

SCORERS = {"score": "shipped"}  # output -> scorer
PADDING = {"phones": 0, "words": -1}


class TorchGraph:
    """One graph of a torch model, run as it would be exported."""

    def __init__(self, graph: ExportGraph) -> None:
        self._graph = graph
        graph.module.eval()
        self.name, self.outputs, self.metadata = graph.name, graph.outputs, graph.metadata
        self.inputs: dict[str, Shape] = {
            name: tuple(None if axis in graph.dynamic.get(name, {}) else size for axis, size in enumerate(value.shape))
            for name, value in graph.sample(0).items()
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.inputs}
        return torch_outputs(self._graph, tensors)


class Matcher:
    """An audio-text matcher made of a main graph and an optional enrolment graph; enrolments are cached."""

    def __init__(self, main: Graph, enroll: Graph | None = None) -> None:
        self.main, self.enroller = main, enroll
        self._enrolled: dict[bytes, Arrays] = {}
        stored = main.metadata.get("phones")
        if stored is not None and tuple(stored.split()) != PHONES:
            raise UserError(f"{main.name}: made for another phone inventory ({len(stored.split())} phones).")

    @property
    def inputs(self) -> dict[str, Shape]:
        return self.main.inputs

    @property
    def outputs(self) -> list[str]:
        return self.main.outputs

    @property
    def metadata(self) -> dict[str, str]:
        return self.main.metadata

    @property
    def threshold(self) -> float | None:
        """Decision threshold stored with the model; None when it was not calibrated."""
        value = float(self.metadata.get("threshold", "nan"))
        return None if math.isnan(value) else value

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The main graph as it is."""
        return self.main.run(inputs)

    def enroll(self, phones: np.ndarray, words: np.ndarray) -> Arrays:
        """Tokens of one typed text, phones (P,) and word numbers (P,) without padding, as the main graph takes them."""
        if self.enroller is None:
            return {}
        key = phones.tobytes() + words.tobytes()
        if key not in self._enrolled:
            self._enrolled[key] = self.enroller.run(self._typed(self.enroller, phones, words))
        return self._enrolled[key]

    def match(self, audio: np.ndarray, phones: np.ndarray, words: np.ndarray) -> Arrays:
        """All outputs for one clip (S,) and one text; raises UserError when the text is longer than the graph takes."""
        phones, words = phones.astype(np.int64), words.astype(np.int64)
        shortest = int(SHORTEST_S * float(self.metadata.get("sample_rate", 16_000)))
        audio = np.pad(audio.astype(np.float32), (0, max(0, shortest - len(audio))))
        values = {
            "audio": audio[None],
            "audio_lengths": np.array([len(audio)]),
            **self._typed(self.main, phones, words),
            **self.enroll(phones, words),
        }
        if "tokens" in values and (count := int(values["token_count"][0])) > values["tokens"].shape[1]:
            raise UserError(f"a text of {count} words is too long: this model takes up to {values['tokens'].shape[1]}.")
        unknown = self.inputs.keys() - values.keys()
        if unknown:
            raise UserError(
                f"{self.main.name}: input {', '.join(sorted(unknown))} is not part of keyword matching"
                + ("." if self.enroller else f"; is {ENROLL}.onnx missing beside it?")
            )
        return self.run({name: values[name] for name in self.inputs})

    @staticmethod
    def _typed(graph: Graph, phones: np.ndarray, words: np.ndarray) -> Arrays:
        """Phone inputs of ``graph``, padded where its axis is fixed."""
        values = {"phone_count": np.array([len(phones)])}
        for name, value in (("phones", phones), ("words", words)):
            size = graph.inputs.get(name, (1, None))[1] or len(value)
            if len(value) > size:
                raise UserError(f"a text of {len(value)} phones is too long: this model takes up to {size}.")
            values[name] = np.pad(value, (0, size - len(value)), constant_values=PADDING[name])[None]
        return values

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Scores (B,) by scorer name, shipped one first, of an evaluation batch; rows one by one, without padding.

        Scorers are the outputs of one float a call (not cuts or vectors), in the graph's order; the output `score` is
        called `shipped`, as in `Family.score`.
        """
        rows: list[dict[str, float]] = []
        for row, samples in enumerate(batch["audio_lengths"].tolist()):
            phones, words = batch["phones"][row].cpu().numpy(), batch["words"][row].cpu().numpy()
            count = int((phones != PADDING["phones"]).sum())
            clip = batch["audio"][row, :samples].cpu().numpy()
            rows.append(self.scores(self.match(clip, phones[:count], words[:count])))
        return {name: torch.tensor([row[name] for row in rows]) for name in (rows[0] if rows else {})}

    def scores(self, outputs: Arrays) -> dict[str, float]:
        """As `scorers`."""
        return scorers(outputs)


def scorers(outputs: Arrays) -> dict[str, float]:
    """The scorers among the outputs of one match; empty for a graph that scores no keyword (an encoder)."""
    return {
        SCORERS.get(name, name): float(value.item())
        for name, value in outputs.items()
        if value.size == 1 and np.issubdtype(value.dtype, np.floating)
    }


class OnnxModel(Matcher):
    """An exported model: `PATH` and `enroll.onnx` beside it.

    Example:
        model = OnnxModel("export/model.onnx", threads=1)
        scores = model.score(batch)
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        path = Path(path)
        beside = path.with_name(f"{ENROLL}.onnx")
        main = OnnxGraph(path, threads)
        needs = beside.is_file() and beside != path and "tokens" in main.inputs
        super().__init__(main, OnnxGraph(beside, threads) if needs else None)


class TorchModel(Matcher):
    """A torch model run through its export graphs: what `OnnxModel` would compute, before export."""

    def __init__(self, model: Family) -> None:
        graphs = {graph.name: TorchGraph(graph) for graph in model.eval().export_spec()}
        main = next(iter(graphs.values()))
        super().__init__(main, graphs.get(ENROLL))
        self._graphs = graphs

    def many(self) -> ManyKeywords | None:
        """The same for many keywords at once; None where the model has no graphs for it."""
        if not {ENCODER, MATCH} <= self._graphs.keys():
            return None
        return ManyKeywords(self._graphs[ENCODER], self._graphs[MATCH], self.enroller)
