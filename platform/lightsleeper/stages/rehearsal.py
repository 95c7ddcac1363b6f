"""The dress rehearsal of the check stage: a model that needs an earlier step is built before that step has run.

Its constructor would otherwise refuse its arguments after minutes of training. A step that has not finished yet is
played by a stand-in: its model, untrained, saved as finalize would save it. Sizes that compression will change are
those of the plain model here.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from lightsleeper_callbacks.base import check_alone

from lightsleeper import recipe as recipes
from lightsleeper.deploy.finalize import save_model
from lightsleeper.errors import UserError
from lightsleeper.models.family import Family
from lightsleeper.recipe.parsing import ordered
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, WEIGHTS

if TYPE_CHECKING:
    from lightsleeper.stages.plan import Plan


def rehearse(todo: "Plan", runs_dir: Path) -> None:
    """Build the model of ``todo`` on stand-ins, show it to the compression callbacks, ask for its export graphs.

    Raises UserError with key and place, as the real thing would. The stand-ins and the random numbers drawn for them
    leave no trace.
    """
    if not todo.steps and "export" not in todo.settings.stages and not todo.config["callbacks"]:
        return  # `plan` has built it already
    # Weights are drawn on the CPU; saving the state of a GPU would start it.
    with isolate_rng(include_cuda=False), tempfile.TemporaryDirectory(prefix="lightsleeper-") as folder:
        _build(todo, Path(folder), runs_dir)


def _build(todo: "Plan", folder: Path, runs_dir: Path) -> L.LightningModule | None:
    """The model, its stand-ins below ``folder``; None where one of them cannot be played."""
    stand_ins: dict[str, Path] = {}
    real: dict[str, Path] = {}
    for name, step in todo.steps.items():
        if (finished := step.finished(runs_dir)) is not None:
            real[name] = finished.absolute()
        elif (model := _build(step, folder / name, runs_dir)) is not None and _save(model, step, folder / name):
            stand_ins[name] = folder / name
    spec = todo.config["model"]
    steps = {**real, **stand_ins}
    if any(name not in steps for _, name in recipes.references(spec)):
        return None
    reader = todo.reader
    try:
        model = reader.object("model", recipes.substitute(spec, steps), L.LightningModule)
        callbacks = {
            name: reader.object(f"callbacks.{name}", callback, Callback)
            for name, callback in todo.config["callbacks"].items()
            if not any(recipes.references(callback))
        }
        epochs = todo.config["trainer"].get("max_epochs")
        reader.guard("callbacks", lambda: check_alone(ordered(callbacks), model, epochs))
        if "export" in todo.settings.stages and isinstance(model, Family):
            reader.guard("model", model.export_spec)
    except UserError as error:
        if _wants_more(error, folder):
            return None
        text = str(error)
        for name, path in stand_ins.items():
            text = text.replace(str(path), f"${{requires.{name}}}")
        raise UserError(text) from error
    return model


def _save(model: L.LightningModule, step: "Plan", folder: Path) -> bool:
    """Whether ``folder`` now plays the run folder: without a model to load where the step does not finalize one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, Family):
        return False
    if "finalize" not in step.settings.stages:
        return True
    try:
        meta = {"recipe": step.recipe.name, "run_id": "rehearsal", "threshold": {}}
        save_model(model.eval(), folder / EXPORT, meta)
    except Exception:  # no architecture(), layers without weights yet, a full disk: the real run will tell
        return False
    return True


def _wants_more(error: BaseException | None, folder: Path) -> bool:
    """Whether a constructor looked for a file that a run folder has and a stand-in has not, such as a checkpoint."""
    while error is not None:
        if isinstance(error, FileNotFoundError) and isinstance(error.filename, (str, Path)):
            path = Path(error.filename)
            if path.is_relative_to(folder) and path.name not in (ARCHITECTURE, WEIGHTS):
                return True
        error = error.__cause__ or error.__context__
    return False
