import json

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightsleeper.deploy import finalize as module
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.errors import UserError
from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.structure import describe
from safetensors.torch import load_file, save_file


class Scale(Compression):
    """Multiplies the frame weights: composes in an order that can be read off the result."""

    phase = Phase.PRUNE

    def __init__(self, factor: float = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def finalize(self, module):
        module.frame.weight.data.mul_(self.factor).add_(self.offset)
        return module

    def report(self, module):
        return {"compress/zeros": float((module.frame.weight == 0).float().mean())}


class LateScale(Scale):
    phase = Phase.CLUSTER


class Widen(Compression):
    """Rebuilds a layer one row wider, which changes nothing, or with other weights, which does."""

    phase = Phase.PRUNE

    def __init__(self, exact: bool = True) -> None:
        super().__init__()
        self.exact = exact

    def finalize(self, module):
        return module

    def simplify(self, module):
        old = module.frame
        module.frame = torch.nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        if self.exact:
            module.frame.load_state_dict(old.state_dict())
        return module, {"frame": describe(module.frame)}


def test_the_trained_model_is_untouched_and_keeps_its_trainer(matcher):
    matcher.train()
    matcher._trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    before = {name: value.clone() for name, value in matcher.state_dict().items()}
    final, _ = finalize(matcher, {"prune": Scale(0.0)})
    assert matcher.training
    assert matcher._trainer is not None
    assert not final.training
    assert final._trainer is None
    assert final.frame.weight.abs().sum() == 0
    assert all(torch.equal(value, before[name]) for name, value in matcher.state_dict().items())


def test_without_compression_the_copy_equals_the_model(matcher):
    final, report = finalize(matcher, {"timer": Timer(), "nothing": Timer()})
    assert report == {}
    assert final is not matcher
    assert all(torch.equal(value, matcher.state_dict()[name]) for name, value in final.state_dict().items())


def test_half_precision_weights_become_float32(matcher):
    final, _ = finalize(matcher.bfloat16(), {})
    assert {value.dtype for value in final.parameters()} == {torch.float32}


def test_callbacks_act_in_the_order_of_their_phase_not_of_the_recipe(matcher):
    late, early = LateScale(factor=1.0, offset=1.0), Scale(factor=0.0)
    final, report = finalize(matcher, {"cluster": late, "prune": early})
    assert torch.equal(final.frame.weight, torch.ones_like(final.frame.weight))  # 0 * w, then + 1
    assert list(report) == ["prune", "cluster"]
    assert report["prune"]["phase"] == "prune"
    assert report["prune"]["compress/zeros"] == 0.0  # facts are those of what ships


def test_the_effect_of_a_lossy_step_is_measured(matcher):
    _, report = finalize(matcher, {"same": LateScale(1.0), "prune": Scale(0.0)})
    assert report["prune"]["max_abs_diff"] > 1e-3
    assert report["same"]["max_abs_diff"] == 0.0


def test_rebuilt_layers_are_saved_and_rebuilt_again(matcher, tmp_path):
    final, report = finalize(matcher, {"narrow": Widen()})
    assert report["narrow"]["exact_abs_diff"] == 0.0
    assert final.structure["frame"]["type"] == "Linear"
    # A layer of another size than the constructor gives: the description wins.
    final.structure["phone"] = {"type": "Embedding", "args": {"num_embeddings": 3, "embedding_dim": 4}}
    final.phone = torch.nn.Embedding(3, 4)
    save_model(final, tmp_path, {})
    assert load_model(tmp_path).phone.weight.shape == (3, 4)


def test_a_finalized_model_that_is_finalized_again_can_still_be_loaded(matcher, tmp_path):
    once, _ = finalize(matcher, {"narrow": Widen()})
    once.frame = torch.nn.Linear(once.frame.in_features, once.frame.out_features, bias=False)  # not as constructed
    once.structure["frame"] = describe(once.frame)
    twice, _ = finalize(once, {"prune": Scale(0.5)})
    save_model(twice, tmp_path, {})
    loaded = load_model(tmp_path)
    assert loaded.frame.bias is None
    assert torch.equal(loaded.frame.weight, 0.5 * once.frame.weight)


def test_an_exact_step_that_is_none_fails(matcher):
    with pytest.raises(UserError, match="'narrow' should leave the outputs as they are, but changed them by"):
        finalize(matcher, {"narrow": Widen(exact=False)})


def test_a_saved_model_loads_with_equal_weights_from_its_folder_and_from_the_run(matcher, tmp_path, pairs):
    save_model(matcher, tmp_path / "export", {"recipe": "tiny"})
    for folder in (tmp_path, tmp_path / "export"):
        loaded = load_model(folder)
        assert not loaded.training
        assert torch.equal(loaded.score(pairs)["shipped"], matcher.score(pairs)["shipped"])
    description = json.loads((tmp_path / "export" / "model.json").read_text())
    assert description["init_args"] == {"dim": 4}
    assert description["meta"] == {"recipe": "tiny"}
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["model.json", "model.safetensors"]


def test_a_failed_save_leaves_the_old_model(matcher, tmp_path, monkeypatch):
    save_model(matcher, tmp_path, {})
    monkeypatch.setattr(module.safetensors_torch, "save_model", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(UserError, match=r"model\.safetensors: full"):
        save_model(matcher, tmp_path, {})
    load_model(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_json_is_refused_before_anything_is_written(matcher, tmp_path):
    with pytest.raises(TypeError):
        save_model(matcher, tmp_path, {"when": object()})
    assert not list(tmp_path.iterdir())


def _drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("phone.weight")
    save_file(weights, folder / "model.safetensors")
    description = json.loads((folder / "model.json").read_text())
    del description["weights_sha256"]
    (folder / "model.json").write_text(json.dumps(description))


def _edit(**changes):
    def edit(folder):
        description = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**description, **changes}))

    return edit


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.json").write_text("[]"), "no model description"),
        (lambda f: (f / "model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), "sha256 differs"),
        (_drop_weight, "does not fit"),
        (_edit(class_path="no.such.Model"), "cannot be imported"),
        (_edit(class_path="lightsleeper.phones.PHONES"), "not a model family"),
        (_edit(class_path="lightsleeper.errors.UserError"), "not a model family"),
        (_edit(init_args={"dimension": 4}), "cannot be built"),
        (_edit(init_args={"dim": 5}), "does not fit"),
    ],
)
def test_a_broken_model_folder_is_named_in_one_line(matcher, tmp_path, spoil, message):
    save_model(matcher, tmp_path, {})
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        load_model(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "none")
    with pytest.raises(UserError, match="neither a run folder nor a model folder"):
        load_model(tmp_path)
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UserError, match="did not reach its finalize stage"):
        load_model(tmp_path)
