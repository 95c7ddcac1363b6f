"""Weights & Biases as a tracker: Lightning's logger, the resolved recipe as config, the record as summary, artifacts.

Online with a key and a network, offline without, never a prompt. Offline runs lie in the run folder and are uploaded by
`wandb sync`; a resumed run keeps its id, so W&B joins the pieces. What W&B would collect by itself (host and user
name, command line, git remote) is switched off: the record's allow-list is what a run tells about its machine.

Under an agent of a W&B sweep the run is the agent's, with its id and in its project; the steps that it requires are
runs of their own beside the sweep.

Lineage: inputs are logged again with the same content and marked as used, which works offline too (`use_artifact` by
name does not). On upload W&B recognises content it has and draws the edge to the version that is there.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lightsleeper.errors import UserError
from lightsleeper.files import write_atomic
from lightsleeper.recipe.config import TrackingConfig
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, WANDB, WEIGHTS
from lightsleeper.tracking.credentials import key_source
from lightsleeper.tracking.record import Record, knobs

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

INIT_TIMEOUT_S = 10.0
UPLOAD_S = 120.0  # history and summary of a run: seconds on a slow line
UPLOAD_BYTES_PER_S = 250_000  # 2 Mbit/s, for the models
MODEL_FILES = (ARCHITECTURE, WEIGHTS)
AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
"""What an agent of a W&B sweep tells the run that it starts."""


class Tracker(Protocol):
    """What a run needs of a tracker."""

    loggers: "list[Logger]"
    state: dict[str, Any]
    """The record's `tracking` entry."""
    note: str
    """One line for the user about where the run is tracked; may be empty."""

    def replay(self, rows: list[dict[str, str]]) -> None:
        """Log the rows of `metrics.csv` again where an earlier process' log of them never left this machine."""

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

    def replay(self, rows: list[dict[str, str]]) -> None:
        pass

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
    # A trial of W&B's agents was filed where its sweep is; continued without the agent it still belongs there.
    filed = record.tracking if record.sweep else {}
    arguments: dict[str, Any] = {
        "project": filed.get("project") or settings.project,
        "entity": filed.get("entity") or settings.entity,
        "group": settings.group or record.group,
        "tags": settings.tags,
        "notes": settings.notes,
        "name": record.run_id,
        "job_type": record.recipe,
        "id": record.tracking.get("id") or record.run_id,
        "dir": str(folder.absolute()),  # W&B's service is another process, with another working folder
        "config": {**record.config, "environment": record.environment, **swept(record), "record": told(record)},
    }
    step = record.parent is not None
    if mode == "online":
        try:
            with outside_sweep(step):
                return WandbRun(_init("online", arguments), settings, folder, step=step)
        except Exception as error:  # whatever it is, no run is lost because of its tracker
            reason = _reason(error)
            if settings.mode == "online":
                raise UserError(f"W&B could not be reached: {reason}. Mode auto continues offline.") from error
            why = f"W&B not reachable: {reason}"
    with outside_sweep(step):
        return WandbRun(_init("offline", arguments), settings, folder, why, step)


@contextmanager
def outside_sweep(step: bool) -> Iterator[None]:
    """Hide the agent of a W&B sweep from a step: W&B would give it the id of the run that requires it."""
    hidden = {name: os.environ.pop(name) for name in AGENT_VARIABLES if step and name in os.environ}
    try:
        if hidden:
            _forget_environment()
        yield
    finally:
        os.environ.update(hidden)


def _forget_environment() -> None:
    """Let W&B, which reads the environment once, read it anew when the next run starts."""
    import wandb

    wandb.teardown()


def _init(mode: Literal["online", "offline"], arguments: Mapping[str, Any]) -> Any:
    import wandb

    quiet = wandb.Settings(
        silent=True,
        console="off",  # the terminal belongs to rich; log.txt has the text
        init_timeout=INIT_TIMEOUT_S,
        login_timeout=1,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        host="",
    )
    before = logs(Path(arguments["dir"]))
    try:
        run = wandb.init(**arguments, mode=mode, resume="allow", reinit="finish_previous", settings=quiet)
    except BaseException:
        wandb.teardown()  # its service still holds the id: the offline run could not start
        for empty in logs(Path(arguments["dir"])) - before:
            shutil.rmtree(empty, ignore_errors=True)
        raise
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def swept(record: Record) -> dict[str, Any]:
    """What a sweep has set, as W&B's config: knobs of required steps are nowhere else there. Dots would be nesting."""
    parameters = record.sweep.get("parameters") or {}
    return {"sweep": {name.replace(".", "/"): value for name, value in parameters.items()}} if parameters else {}


def told(record: Record) -> dict[str, Any]:
    """What of a run is neither config nor result, for `dashboard.remote`: W&B's own group may be a sweep's."""
    shown = ("id", "name", "method", "metric", "goal", "trial")
    sweep = {name: record.sweep[name] for name in shown if name in record.sweep}
    names = ("group", "hash", "headline", "parent")
    return {**{name: getattr(record, name) for name in names}, "sweep": sweep}


def logs(folder: Path, kind: str = "*run-") -> set[Path]:
    """W&B's own log folders of a run: `offline-run-*` and, online, `run-*`."""
    return set((folder / WANDB).glob(f"{kind}[0-9]*"))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


class WandbRun:
    """An open W&B run."""

    def __init__(
        self, run: Any, settings: TrackingConfig, folder: Path, offline_because: str = "", step: bool = False
    ) -> None:
        from lightning.pytorch.loggers import WandbLogger

        self._run = run
        self._folder = folder
        self._offline = bool(offline_because)
        self._replaced = False
        self._step = step
        self.loggers: list[Logger] = [WandbLogger(experiment=run, project=settings.project, save_dir=folder)]
        self.state = {
            "mode": "offline" if self._offline else "online",
            "project": run.project or settings.project,
            "entity": run.entity or settings.entity,
            "id": run.id,
            "group": run.group or None,
            "url": run.url or None,
        }
        self.note = f"W&B: offline ({offline_because})" if self._offline else f"W&B: {run.url}"

    def replay(self, rows: list[dict[str, str]]) -> None:
        # Each offline process of a run has a log of its own, and a killed one a damaged log, which `wandb sync` refuses
        # together with its neighbours. The newest log therefore gets everything and replaces the older ones.
        if not self._older():
            return
        for row in rows:
            values = {name: float(value) for name, value in row.items() if value and name != "step"}
            self._run.log({**values, "trainer/global_step": int(row["step"])})
        self._replaced = True
        self._drop_older()

    def _older(self) -> set[Path]:
        return {
            folder for folder in logs(self._folder, "offline-run-") if folder.name != Path(self._run.dir).parent.name
        }

    def _drop_older(self) -> None:
        for folder in self._older():
            shutil.rmtree(folder, ignore_errors=True)

    def log_inputs(self, record: Record, steps: Mapping[str, Path]) -> None:
        if record.data.get("hash"):
            path = self._folder / WANDB / "corpus.json"  # hash and summary; the audio stays on its machine
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps(record.data, indent=1, sort_keys=True, default=str))
            name = f"corpus-{record.knobs.get('data', 'data')}"
            self._use(self._artifact(name, "dataset", {path.name: path}, record.data))
        for folder in steps.values():
            if artifact := self._model(folder, folder.parent.name, folder.name):
                self._use(artifact)

    def finish(self, record: Record, folder: Path, exit_code: int) -> list[str]:
        exported = {item["path"].removeprefix("export/"): folder / item["path"] for item in record.artifacts}
        paths = [*exported.values(), *(folder / EXPORT / name for name in MODEL_FILES)]
        limit_s = UPLOAD_S + sum(path.stat().st_size for path in paths if path.exists()) / UPLOAD_BYTES_PER_S

        def upload() -> None:
            self._run.summary.update(summary(record))
            if artifact := self._model(folder, record.recipe, record.run_id):
                self._run.log_artifact(artifact, aliases=["latest", "finalized"])
            if exported:
                formats = "-".join(sorted({item["format"] for item in record.artifacts}))
                metadata = {"run_id": record.run_id, "artifacts": record.artifacts}
                self._run.log_artifact(self._artifact(f"{record.recipe}-{formats}", formats, exported, metadata))
            self._run.finish(exit_code=exit_code)

        complete = finish_within(upload, limit_s)
        if self._step and os.environ.get("WANDB_SWEEP_ID"):
            _forget_environment()
        if self._replaced:  # again: the service of a killed process lives on for a while, and writes
            self._drop_older()
        if self._offline:
            return [f"W&B upload: wandb sync {folder / 'wandb'}/offline-run-*"]
        later = f"W&B upload not complete; later: wandb sync --include-online {folder / 'wandb'}/run-*"
        return [f"W&B: {self.state['url']}" if complete else later]

    def _model(self, folder: Path, recipe: str, run_id: str) -> Any | None:
        files = {name: folder / EXPORT / name for name in MODEL_FILES}
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
        # What use_artifact does with a new artifact, but for waiting until the server has it: offline that is for ever.
        # A private name of wandb 0.31; a test reads the log that it leaves.
        with suppress(Exception):
            self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def finish_within(finish: Callable[[], None], limit_s: float) -> bool:
    """Call ``finish`` and wait; past the limit, or on Ctrl-C, end W&B's service. False when it did not complete.

    W&B itself would go on trying for hours when the network has gone. What it could not send is in its local log.
    """
    done = threading.Event()

    def target() -> None:
        with suppress(Exception):  # the results are on disk; a tracker that fails now must not fail the run
            finish()
            done.set()

    thread = threading.Thread(target=target, name="W&B upload", daemon=True)
    thread.start()
    with suppress(KeyboardInterrupt):
        thread.join(limit_s)
    if not done.is_set():
        loud = threading.excepthook
        threading.excepthook = lambda details: None if "wandb" in str(details.thread) else loud(details)
        with suppress(Exception):  # private names; without them the exit of Python would wait instead
            from wandb.sdk import wandb_setup

            connection: Any = wandb_setup.singleton()._connection
            connection._cleanup()
            connection._proc._process.terminate()
    return done.is_set()


def summary(record: Record) -> dict[str, Any]:
    """The record's numbers as a flat W&B summary: `test/auc_hard`, `test/auc_hard.low`, `size.parameters` ..."""
    flat: dict[str, Any] = {"status": record.status}
    for name, measured in record.metrics.items():
        flat[name] = measured["value"]
        flat.update({f"{name}.{end}": measured[end] for end in ("low", "high") if measured[end] is not None})
    if record.sweep.get("pruned"):
        flat["sweep.pruned"] = True
    if record.sweep.get("metric") and record.sweep.get("value") is not None:
        flat[record.sweep["metric"]] = record.sweep[
            "value"
        ]  # W&B's sweeps judge by the summary: what ships, not the last
    for section in ("size", "threshold", "context", "compression", "seconds", "reference"):
        flat.update(knobs({section: getattr(record, section)}))
    for index, artifact in enumerate(record.artifacts):
        plain = {key: value for key, value in artifact.items() if isinstance(value, (str, int, float))}
        flat.update(knobs({f"artifacts.{index}": plain}))
        for row in artifact.get("latency", [])[:1]:
            flat.update(knobs({f"artifacts.{index}.latency": row}))
    return flat
