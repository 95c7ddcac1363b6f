import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightsleeper_callbacks.base import Compression, Phase, by_phase, progress
from torch import nn


class Recorder(Compression):
    phase = Phase.PRUNE

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[nn.Module] = []
        self.steps: list[float] = []

    def prepare(self, module: nn.Module) -> None:
        self.prepared.append(module)

    def step(self, module: nn.Module, progress: float) -> None:
        self.steps.append(progress)

    def report(self, module: nn.Module) -> dict[str, float]:
        return {"compress/sparsity": 0.25}


def trainer(*callbacks: Callback, **settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_model_summary=False,
        **{**quiet, **settings},  # type: ignore[arg-type]
    )


def test_order_comes_from_the_phase_and_not_from_the_list():
    def made(phase: Phase) -> Compression:
        return type(phase.name, (Recorder,), {"phase": phase})()

    cluster, fold, prune, start = (made(p) for p in (Phase.CLUSTER, Phase.FOLD, Phase.PRUNE, Phase.INITIALIZE))
    other = EarlyStopping("loss")
    assert by_phase([other, cluster, fold, prune, start]) == [start, fold, prune, cluster, other]


def test_a_class_without_a_phase_is_refused():
    class Nameless(Compression):
        pass

    with pytest.raises(TypeError, match="Nameless declares no phase"):
        Nameless()


def test_setup_prepares_once_however_often_it_is_called():
    callback, model = Recorder(), BoringModel()
    runner = trainer(callback, max_steps=1, limit_val_batches=1, limit_test_batches=1)
    runner.fit(model)
    runner.validate(model, verbose=False)
    runner.test(model, verbose=False)
    runner.fit(model)
    assert callback.prepared == [model]


def test_another_module_is_prepared_anew_and_a_tested_one_not_at_all():
    callback, first, second = Recorder(), BoringModel(), BoringModel()
    trainer(callback, max_steps=1, limit_val_batches=0).fit(first)
    trainer(callback, max_steps=1, limit_val_batches=0).fit(second)
    trainer(callback, limit_test_batches=1).test(BoringModel(), verbose=False)
    assert callback.prepared == [first, second]


def test_step_sees_the_share_of_optimizer_steps_done():
    callback = Recorder()
    trainer(callback, max_epochs=2, limit_train_batches=4, limit_val_batches=0).fit(BoringModel())
    assert callback.steps == [index / 8 for index in range(8)]


def test_progress_is_zero_while_the_end_is_unknown():
    runner = trainer(max_epochs=-1, limit_train_batches=2, limit_val_batches=0)

    class Stop(Callback):
        seen: float | None = None

        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            self.seen = progress(trainer)
            trainer.should_stop = True

    stop = Stop()
    runner.callbacks.append(stop)
    runner.fit(BoringModel())
    assert stop.seen == 0.0


def test_a_ramp_over_a_training_without_an_end_is_refused():
    class Ramp(Recorder):
        def settled(self, progress: float) -> bool:
            return progress > 0.5

    runner = trainer(Ramp(), max_epochs=-1, limit_train_batches=2, limit_val_batches=0)
    with pytest.raises(ValueError, match="Ramp acts at shares of a training whose end is unknown: set max_steps"):
        runner.fit(BoringModel())


def test_an_average_that_takes_in_buffers_is_refused_beside_masks():
    with pytest.raises(ValueError, match="EMAWeightAveraging beside Recorder would average .* use_buffers: false"):
        trainer(Recorder(), EMAWeightAveraging(), max_steps=1).fit(BoringModel())
    average = EMAWeightAveraging(use_buffers=False)
    trainer(Recorder(), average, max_steps=1, limit_val_batches=0).fit(BoringModel())


def test_facts_are_logged_as_metrics():
    runner = trainer(Recorder(), max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    runner.fit(BoringModel())
    assert runner.callback_metrics["compress/sparsity"] == pytest.approx(0.25)


def test_names_keep_two_callbacks_of_one_class_apart_in_a_checkpoint():
    first, second = Recorder(), Recorder()
    first.name, second.name = "encoder", "head"
    assert first.state_key == "Recorder:encoder"
    assert first.state_key != second.state_key
    assert Recorder().state_key == "Recorder"


def test_a_prepared_callback_can_be_copied():
    callback = Recorder()
    callback.prepare_once(nn.Linear(1, 1))
    clone = copy.deepcopy(callback)
    module = torch.nn.Linear(1, 1)
    clone.prepare_once(module)
    assert clone.prepared[-1] is module
