"""Weights & Biases as a tracker: Lightning's logger, the resolved recipe as config, the record as summary, artifacts.

Online with a key and a network, offline without, never a prompt. Offline runs lie in the run folder and are uploaded by
`wandb sync`; a resumed run keeps its id, so W&B joins the pieces. What W&B would collect by itself (host and user
name, command line, git remote) is switched off: the record's allow-list is what a run tells about its machine.

Lineage offline: `use_artifact` refuses to run, so inputs are logged again with the same content and marked as used.
On upload W&B recognises content it has and draws the edge to the version that is there.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger

from lightsleeper.config import TrackingConfig
from lightsleeper.errors import UserError
from lightsleeper.tracking.credentials import key_source
from lightsleeper.tracking.record import Record, knobs, write_atomic

INIT_TIMEOUT_S = 10.0
MODEL_FILES = ("model.json", "model.safetensors")


class Tracker(Protocol):
    """What a run needs of a tracker."""

    loggers: list[Logger]
    state: dict[str, Any]
    """The record's `tracking` entry."""
    note: str
    """One line for the user about where the run is tracked; may be empty."""

    def log_inputs(self, record: Record, steps: Mapping[str, Path]) -> None:
        """Name the corpus and the required steps' models as inputs."""

    def finish(self, record: Record, folder: Path, exit_code: int) -> list[str]:
        """Log results and deliverables, close; returns lines for the user."""


class Untracked:
    """`tracking.mode: disabled`: the local record is all there is."""

    def __init__(self) -> None:
        self.loggers: list[Logger] = []
        self.state: dict[str, Any] = {"mode": "disabled"}
        self.note = ""

    def log_inputs(self, record: Record, steps: Mapping[str, Path]) -> None:
        pass

    def finish(self, record: Record, folder: Path, exit_code: int) -> list[str]:
        return []


def wanted_mode(settings: TrackingConfig, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """(online | offline | disabled, why); raises UserError when online is asked for without a key."""
    given = {"dryrun": "offline", "run": "online"}.get(environ.get("WANDB_MODE", ""), environ.get("WANDB_MODE", ""))
    if settings.mode in ("offline", "disabled"):
        return settings.mode, f"tracking.mode is {settings.mode}"
    if settings.mode == "auto" and given in ("offline", "disabled"):
        return given, f"WANDB_MODE is {environ['WANDB_MODE']}"
    if key_source(environ):
        return "online", ""
    if settings.mode == "online":
        raise UserError(
            "tracking.mode is online, but there is no W&B key: `wandb login`, or set WANDB_API_KEY, or use mode auto."
        )
    return "offline", "no W&B key"


def start(settings: TrackingConfig, folder: Path, record: Record) -> Tracker:
    """Open the W&B run of ``record``, or continue it; raises UserError when online is asked for and fails."""
    mode, why = wanted_mode(settings)
    if mode == "disabled":
        return Untracked()
    # Set before the first import, which reads them: no banner, and no crash reports to W&B's own telemetry.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    arguments: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "group": settings.group or record.group,
        "tags": settings.tags,
        "notes": settings.notes,
        "name": record.run_id,
        "job_type": record.recipe,
        "id": record.tracking.get("id") or record.run_id,
        "dir": str(folder),
        "config": {**record.config, "environment": record.environment},
    }
    if mode == "online":
        try:
            return WandbRun(_init("online", arguments), settings, folder)
        except Exception as error:  # whatever it is, no run is lost because of its tracker
            reason = _reason(error)
            if settings.mode == "online":
                raise UserError(f"W&B could not be reached: {reason}. Mode auto continues offline.") from error
            why = f"W&B not reachable: {reason}"
    return WandbRun(_init("offline", arguments), settings, folder, why)


def _init(mode: str, arguments: Mapping[str, Any]) -> Any:
    import wandb

    quiet = wandb.Settings(
        silent=True,
        console="off",  # the terminal belongs to rich; log.txt has the text
        init_timeout=INIT_TIMEOUT_S,
        login_timeout=1,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
    )
    try:
        run = wandb.init(**arguments, mode=mode, resume="allow", reinit="finish_previous", settings=quiet)
    except BaseException:
        wandb.teardown()  # its service still holds the id: the offline run could not start
        raise
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


class WandbRun:
    """An open W&B run."""

    def __init__(self, run: Any, settings: TrackingConfig, folder: Path, offline_because: str = "") -> None:
        from lightning.pytorch.loggers import WandbLogger

        self._run = run
        self._folder = folder
        self._offline = bool(offline_because)
        self.loggers: list[Logger] = [WandbLogger(experiment=run, project=settings.project, save_dir=folder)]
        self.state = {
            "mode": "offline" if self._offline else "online",
            "project": settings.project,
            "entity": run.entity or settings.entity,
            "id": run.id,
            "url": run.url or None,
        }
        self.note = f"W&B: offline ({offline_because})" if self._offline else f"W&B: {run.url}"

    def log_inputs(self, record: Record, steps: Mapping[str, Path]) -> None:
        if record.data.get("hash"):
            path = self._folder / "wandb" / "corpus.json"  # hash and summary; the audio stays on its machine
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps(record.data, indent=1, sort_keys=True, default=str))
            name = f"corpus-{record.knobs.get('data', 'data')}"
            self._use(self._artifact(name, "dataset", {path.name: path}, record.data))
        for folder in steps.values():
            if artifact := self._model(folder, folder.parent.name, folder.name):
                self._use(artifact)

    def finish(self, record: Record, folder: Path, exit_code: int) -> list[str]:
        with suppress(Exception):  # the results are on disk; a tracker that fails now must not fail the run
            self._run.summary.update(summary(record))
            if artifact := self._model(folder, record.recipe, record.run_id):
                self._run.log_artifact(artifact, aliases=["latest", "finalized"])
            exported = {Path(item["path"]).name: folder / item["path"] for item in record.artifacts}
            if exported:
                formats = "-".join(sorted({item["format"] for item in record.artifacts}))
                metadata = {"run_id": record.run_id, "artifacts": record.artifacts}
                self._run.log_artifact(self._artifact(f"{record.recipe}-{formats}", formats, exported, metadata))
        with suppress(Exception):
            self._run.finish(exit_code=exit_code)
        if self._offline:
            return [f"W&B upload: wandb sync {folder / 'wandb'}/offline-run-*"]
        return [f"W&B: {self.state['url']}"]

    def _model(self, folder: Path, recipe: str, run_id: str) -> Any | None:
        files = {name: folder / "export" / name for name in MODEL_FILES}
        if not all(path.is_file() for path in files.values()):
            return None
        # The run id is the only metadata: equal content logged twice (as output, as input) has to stay equal.
        return self._artifact(f"{recipe}-model", "model", files, {"run_id": run_id})

    def _artifact(self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> Any:
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
        for inner, path in files.items():
            # Immutable: uploaded from where it lies. Otherwise W&B copies it into its own folder under home first.
            artifact.add_file(str(path), name=inner, policy="immutable", skip_cache=True)
        return artifact

    def _use(self, artifact: Any) -> None:
        with suppress(Exception):
            if not self._offline:
                self._run.use_artifact(artifact)
            else:  # the part of use_artifact that needs no server; a private name of wandb 0.31
                self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def summary(record: Record) -> dict[str, Any]:
    """The record's numbers as a flat W&B summary: `test/auc_hard`, `test/auc_hard.low`, `size.parameters` ..."""
    flat: dict[str, Any] = {"status": record.status}
    for name, measured in record.metrics.items():
        flat[name] = measured["value"]
        flat.update({f"{name}.{end}": measured[end] for end in ("low", "high") if measured[end] is not None})  # type: ignore[literal-required]
    for section in ("size", "threshold", "context", "compression", "seconds", "reference"):
        flat.update(knobs({section: getattr(record, section)}))
    for index, artifact in enumerate(record.artifacts):
        plain = {key: value for key, value in artifact.items() if isinstance(value, (str, int, float))}
        flat.update(knobs({f"artifacts.{index}": plain}))
        for row in artifact.get("latency", [])[:1]:
            flat.update(knobs({f"artifacts.{index}.latency": row}))
    return flat
