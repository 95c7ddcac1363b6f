"""From recipe to resolved recipe to objects, and what each mistake says."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringDataModule
from lightsleeper.errors import UserError
from lightsleeper.recipe import Recipe, catalog, config_hash, dump, load, parse
from lightsleeper.recipe.parsing import build, check, find_class, resolve
from lightsleeper.recipe.signatures import parameters, type_schema, type_text

USER_CODE = '''
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

BUILT = []


@dataclass
class FrontEnd:
    """Front end."""

    mels: int = 40
    """Mel bands."""
    hop_ms: float = 10.0


class Gate:
    def __init__(self, width: int = 3) -> None:
        self.width = width


class Base(BoringModel):
    def __init__(self, lr: float = 1e-3, dropout: float | None = None) -> None:
        super().__init__()
        self.lr = lr


class Net(Base):
    """A net.

    Args:
        dim: Width of the net.
        kind: Which of two.
    """

    def __init__(
        self,
        dim: int,
        kind: Literal["small", "large"] = "small",
        sizes: list[int] = [1, 2],
        rates: dict[str, float] | None = None,
        folder: Path | None = None,
        shape: tuple[int, ...] = (1,),
        front: FrontEnd = FrontEnd(),
        gate: Gate | None = None,
        watch: L.Callback | None = None,
        past_frames: int | None = 40,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"dim: expected at least 1,\\n got {dim}")
        BUILT.append(self)
        self.dim, self.front, self.gate, self.shape, self.folder = dim, front, gate, shape, folder


def function() -> None: ...
'''
RECIPE = """\
seed_everything: 7
model:
  class_path: user_code.Net
  init_args:
    dim: 8
    lr: 1e-2
data:
  class_path: lightning.pytorch.demos.boring_classes.BoringDataModule
callbacks:
  early: {class_path: EarlyStopping, init_args: {monitor: val/loss}}
trainer: {max_epochs: 2, precision: bf16-mixed}
run: {stages: [fit]}
"""


@pytest.fixture(scope="module", autouse=True)
def user_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`user_code` is importable, and read once: following its signatures takes half a second."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "user_code.py").write_text(USER_CODE)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("user_code", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if "user_code" in sys.modules:
        sys.modules["user_code"].BUILT.clear()
    yield tmp_path
    sys.modules.pop("local_code", None)


def test_a_resolved_recipe_holds_every_default_and_is_plain_data(folder):
    resolved = resolve(load(["recipe.yaml"]))
    arguments = resolved["model"]["init_args"]
    assert arguments == {
        "dim": 8, "kind": "small", "sizes": [1, 2], "rates": None, "folder": None, "shape": [1],
        "front": {"mels": 40, "hop_ms": 10.0}, "gate": None, "watch": None, "past_frames": 40,
        "lr": 0.01, "dropout": None,
    }  # fmt: skip
    assert resolved["callbacks"]["early"]["class_path"] == "EarlyStopping"
    assert resolved["callbacks"]["early"]["init_args"]["patience"] == 3
    assert resolved["trainer"]["max_epochs"] == 2
    assert resolved["trainer"]["accumulate_grad_batches"] == 1
    assert resolved["tracking"]["project"] == "lightsleeper"
    assert json.loads(json.dumps(resolved)) == resolved


def test_resolving_constructs_nothing(folder):
    resolve(load(["recipe.yaml"]))
    assert sys.modules["user_code"].BUILT == []


def test_a_resolved_recipe_resolves_to_itself_through_yaml(folder):
    (folder / "extra.yaml").write_text(
        "model: {gate: {class_path: user_code.Gate}, front: {mels: 80}, rates: {no: 1}, folder: a/b, shape: [3, 4]}"
    )
    once = resolve(load(["recipe.yaml", "extra.yaml"]))
    assert once["model"]["init_args"]["gate"] == {"class_path": "user_code.Gate", "init_args": {"width": 3}}
    assert resolve(once) == once
    (folder / "saved.yaml").write_text(dump(once))
    assert parse(folder / "saved.yaml")[0] == once
    assert resolve(load(["saved.yaml"])) == once
    assert config_hash(resolve(load(["saved.yaml"]))) == config_hash(once)


def test_build_gives_the_objects_of_the_recipe(folder):
    (folder / "extra.yaml").write_text(
        "model: {gate: {class_path: user_code.Gate, init_args: {width: 5}}, front: {mels: 80}, shape: [3, 4]}"
    )
    parts = build(resolve(load(["recipe.yaml", "extra.yaml"])))
    assert (parts.model.dim, parts.model.lr, parts.model.front.mels) == (8, 0.01, 80)
    assert parts.model.gate.width == 5
    assert parts.model.shape == (3, 4)
    assert isinstance(parts.data, BoringDataModule)
    assert isinstance(parts.callbacks["early"], EarlyStopping)
    assert parts.callbacks["early"].monitor == "val/loss"
    assert parts.trainer_args["max_epochs"] == 2
    assert parts.run.stages == ["fit"]
    assert (parts.tracking.mode, parts.seed) == ("auto", 7)


def test_a_shipped_class_inside_an_argument_keeps_its_short_name(folder):
    resolved = resolve(load(["recipe.yaml"], ["--model.watch={class_path: Timer, init_args: {interval: step}}"]))
    assert resolved["model"]["init_args"]["watch"]["class_path"] == "Timer"
    assert resolved["model"]["init_args"]["watch"]["init_args"]["interval"] == "step"
    assert resolve(resolved) == resolved


def test_sections_left_out_have_defaults(folder):
    config = load(["recipe.yaml"]).config
    resolved = resolve({"model": config["model"], "data": config["data"]})
    assert resolved["seed_everything"] == 0
    assert resolved["callbacks"] == resolved["requires"] == {}
    assert resolved["run"]["stages"] == ["fit", "finalize", "test", "export", "benchmark"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # names
        ("--model.dmi=3", "command line: model.init_args.dmi: Net has no argument 'dmi'. Did you mean 'dim'?"),
        ("--model.lrr=3", "Net has no argument 'lrr'. Did you mean 'lr'?"),
        ("--model.front.mel=3", "model.init_args.front.mel: Net has no argument 'mel'. Did you mean 'mels'?"),
        (
            "--model.gate={class_path: user_code.Gate, init_args: {wdth: 1}}",
            "model.init_args.gate.init_args.wdth: Gate has no argument 'wdth'. Did you mean 'width'?",
        ),
        ("--trainer.max_epoch=3", "trainer.max_epoch: trainer has no argument 'max_epoch'. Did you mean 'max_epochs'?"),
        ("--run.stage=[fit]", "run.stage: run has no argument 'stage'. Did you mean 'stages'?"),
        ("--tracking.projct=x", "Did you mean 'project'?"),
        ("--callbacks.early.patence=3", "EarlyStopping has no argument 'patence'. Did you mean 'patience'?"),
        # values
        ("--model.dim=abc", "command line: model.init_args.dim: expected int, got 'abc'."),
        ("--model.dim=1.5", "model.init_args.dim: expected int, got 1.5."),
        ("--model.dim=null", "model.init_args.dim: expected int, got null."),
        ("--model.lr=fast", "model.init_args.lr: expected float, got 'fast'."),
        ("--model.kind=smal", "expected 'small' or 'large', got 'smal'. Did you mean 'small'?"),
        ("--model.sizes=[1, x]", "model.init_args.sizes.1: expected int, got 'x'."),
        ("--model.rates={a: b}", "model.init_args.rates.a: expected float, got 'b'."),
        ("--model.past_frames=many", "expected int or null, got 'many'."),
        ("--model.gate={class_path: user_code.Gate, init_args: {width: w}}", "gate.init_args.width: expected int"),
        ("--model.gate={class_path: user_code.FrontEnd}", "model.init_args.gate: expected Gate or null"),
        ("--seed_everything=-1", "seed_everything: expected a whole number from 0"),
        ("--seed_everything=true", "seed_everything: expected a whole number from 0"),
        ("--trainer.precision=bf17", "trainer.precision: 'bf17' is not valid. Did you mean 'bf16'?"),
        ("--trainer.strategy=dpp", "there is no strategy 'dpp'. Did you mean 'ddp'?"),
        ("--trainer.accelerator=gpuu", "there is no accelerator 'gpuu'. Did you mean 'gpu'?"),
        ("--trainer.max_epochs=ten", "trainer.max_epochs: expected int or null, got 'ten'."),
        ("--trainer=3", "trainer: expected a mapping, got 3."),
        ("--run.stages=[fit, tset]", "run.stages.1: expected 'fit' or"),
        ("--run.stages=[test, fit]", "expected each at most once, in the order fit, finalize, test, export, benchmark"),
        ("--run.stages=[]", "expected each at most once"),
        ("--run.threads=0", "threads: expected at least 1, got 0."),
        ("--run.formats=[onxx]", "Did you mean 'onnx'?"),
        ("--tracking.mode=on", "tracking.mode: expected 'auto' or 'online' or 'offline' or 'disabled', got 'on'."),
        # what the run sets itself
        ("--trainer.logger=false", "trainer.logger: lightsleeper sets it; see the section 'tracking'."),
        ("--trainer.callbacks=[]", "trainer.callbacks: lightsleeper sets it; name them in the section 'callbacks'."),
        # classes
        (
            "--model.class_path=KeywordDPS",
            "class_path: no shipped class 'KeywordDPS'. Did you mean 'KeywordDSP'?",
        ),
        ("--callbacks.early.class_path=EarlyStoping", "Did you mean 'EarlyStopping'?"),
        ("--callbacks.x=user_code.Net", "callbacks.x.class_path: 'user_code.Net' is no Callback."),
        ("--data.class_path=EarlyStopping", "data.class_path: 'EarlyStopping' is no LightningDataModule."),
        ("--model.class_path=nowhere.Net", "'nowhere.Net': no module 'nowhere'."),
        ("--model.class_path=user_code.Ne", "module 'user_code' has no 'Ne'. Did you mean 'Net'?"),
        ("--model.class_path=user_code.function", "'user_code.function' is not a class."),
        ("--model.class_path=3", "class_path: expected the name of a class, got 3."),
        ("--callbacks.x={init_args: {}}", "callbacks.x: no class_path."),
        ("--callbacks.x={class_path: Timer, init_arg: {}}", "unknown key 'init_arg'. Did you mean 'init_args'?"),
        ("--callbacks.x=3", "callbacks.x"),
    ],
)
def test_a_mistake_is_one_line_with_key_place_and_nearest_name(folder, override, message):
    with pytest.raises(UserError) as caught:
        resolve(load(["recipe.yaml"], [override]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320


def test_the_line_in_the_file_is_named(folder):
    (folder / "recipe.yaml").write_text(RECIPE.replace("    dim: 8", "    dmi: 8"))
    with pytest.raises(UserError, match=r"^recipe\.yaml:5: model\.init_args\.dmi: "):
        resolve(load(["recipe.yaml"]))


def test_a_missing_argument_is_named_with_its_type(folder):
    (folder / "recipe.yaml").write_text(RECIPE.replace("    dim: 8\n", ""))
    with pytest.raises(UserError, match=r"recipe.yaml:2: model: Net needs 'dim' \(int\)"):
        resolve(load(["recipe.yaml"]))


@pytest.mark.parametrize("section", ["model", "data"])
def test_model_and_data_are_required(folder, section):
    config = load(["recipe.yaml"]).config
    del config[section]
    with pytest.raises(UserError, match=f"the recipe names no {section}"):
        resolve(config)


def test_a_constructor_that_refuses_gives_its_text_with_the_key_in_one_line(folder):
    recipe = load(["recipe.yaml"], ["--model.dim=0"])
    with pytest.raises(UserError) as caught:
        build(resolve(recipe), recipe)
    assert str(caught.value) == "recipe.yaml:2: model: dim: expected at least 1, got 0"


def test_a_callback_that_refuses_is_named(folder):
    recipe = load(["recipe.yaml"], ["--callbacks.early.mode=mx"])
    with pytest.raises(UserError, match=r"callbacks\.early: `mode` can be min, max, got mx"):
        check(recipe)


def test_check_constructs_what_needs_no_earlier_step(folder):
    resolved = check(load(["recipe.yaml"]))
    assert len(sys.modules["user_code"].BUILT) == 1
    assert resolved == resolve(load(["recipe.yaml"]))
    (folder / "extra.yaml").write_text("requires: {encoder: x}\nmodel: {folder: '${requires.encoder}'}")
    check(load(["recipe.yaml", "extra.yaml"]))
    assert len(sys.modules["user_code"].BUILT) == 1


def test_without_trust_only_shipped_classes_are_imported(folder):
    (folder / "local_code.py").write_text(USER_CODE)
    (folder / "recipe.yaml").write_text(RECIPE.replace("user_code", "local_code"))
    with pytest.raises(UserError, match=r"recipe.yaml:3: model.class_path: 'local_code.Net' is not a shipped class"):
        resolve(load(["recipe.yaml"]), trust=False)
    assert "local_code" not in sys.modules


@pytest.mark.parametrize(
    "override", ["--trainer.profiler=local_code.Net", "--trainer.strategy={class_path: local_code.Net}"]
)
def test_without_trust_an_argument_imports_nothing_either(folder, override, monkeypatch):
    (folder / "local_code.py").write_text(USER_CODE)
    recipe = load(["recipe.yaml"], [override])
    config = {
        "model": {"class_path": "Shipped"},
        "data": {"class_path": "ShippedData"},
        "trainer": recipe.config["trainer"],
    }
    for name, path in (("Shipped", "BoringModel"), ("ShippedData", "BoringDataModule")):
        dotted = f"lightning.pytorch.demos.boring_classes.{path}"
        monkeypatch.setitem(catalog.SHORT_NAMES, name, dotted)
    with pytest.raises(UserError, match="only with --trust"):
        resolve(Recipe("", config, ()), trust=False)
    assert "local_code" not in sys.modules


def test_without_trust_the_folder_of_an_earlier_step_is_no_code(folder, monkeypatch):
    (folder / "holder.py").write_text(
        "import lightning as L\nfrom torch import nn\n\n\nclass Holder(L.LightningModule):\n"
        "    def __init__(self, parent: str | nn.Module):\n        super().__init__()\n"
    )
    find_class("holder.Holder")
    monkeypatch.setitem(catalog.SHORT_NAMES, "Holder", "holder.Holder")
    monkeypatch.setitem(catalog.SHORT_NAMES, "ShippedData", "lightning.pytorch.demos.boring_classes.BoringDataModule")
    config = {"model": {"class_path": "Holder", "init_args": {}}, "data": {"class_path": "ShippedData"}}
    config["model"]["init_args"]["parent"] = "${requires.parent}/export"
    resolve(Recipe("", config, ()), trust=False)
    config["model"]["init_args"]["parent"] = "local_code.Net"
    with pytest.raises(UserError, match="only with --trust"):
        resolve(Recipe("", config, ()), trust=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import missing_package\nclass Net: ...", "needs the package 'missing_package', which is not installed"),
        ("raise RuntimeError('at\\nimport')", "importing 'local_code' failed: RuntimeError: at import"),
        ("class Net(:", "importing 'local_code' failed: SyntaxError"),
        (
            "import lightning as L\nclass Net(L.LightningModule):\n    def __init__(self, dim: int, lr=1.0):\n"
            "        super().__init__()\n        import missing_package",
            "model: needs the package 'missing_package'",
        ),
    ],
)
def test_user_code_in_the_working_folder_that_fails_is_one_line(folder, source, message):
    (folder / "local_code.py").write_text(source)
    (folder / "recipe.yaml").write_text(RECIPE.replace("user_code", "local_code"))
    with pytest.raises(UserError) as caught:
        build(resolve(load(["recipe.yaml"])))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shipped_class_without_its_module_says_so(monkeypatch):
    monkeypatch.setitem(catalog.SHORT_NAMES, "Later", "lightsleeper.models.later.Later")
    monkeypatch.setitem(catalog._BY_PATH, "lightsleeper.models.later.Later", "Later")
    with pytest.raises(UserError, match="'Later' is not part of this installation"):
        find_class("Later")


@pytest.mark.parametrize("name", sorted(catalog.SHORT_NAMES))
def test_every_catalogued_class_exists_and_documents_its_arguments(name):
    cls = find_class(name)
    known = parameters(cls)
    if cls.__module__.startswith("lightsleeper"):
        undocumented = [parameter.name for parameter in known.values() if not parameter.text]
        assert undocumented == []


def test_parameters_follow_keyword_arguments_into_parent_classes(folder):
    known = parameters(find_class("user_code.Net"))
    assert known["lr"].default == 0.001
    assert known["dim"].required
    assert known["dim"].text == "Width of the net."
    assert known["front.mels"].text == "Mel bands."


@pytest.mark.parametrize(
    ("typehint", "text", "schema"),
    [
        (int, "int", {"type": "integer"}),
        (int | None, "int or null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (list[int], "list of int", {"type": "array", "items": {"type": "integer"}}),
        (dict[str, float], "mapping of str to float", {"type": "object", "additionalProperties": {"type": "number"}}),
        (tuple[int, ...], "list of int", {"type": "array", "items": {"type": "integer"}}),
        (Path, "Path", {"type": "string"}),
        (BoringDataModule, "BoringDataModule", {}),
    ],
)
def test_types_are_told_as_text_and_as_schema(typehint, text, schema):
    assert type_text(typehint) == text
    assert type_schema(typehint) == schema


def test_data_of_an_earlier_step_are_not_built_without_it():
    from lightsleeper.recipe.parsing import build_data

    with pytest.raises(UserError, match="encoder: is of the earlier step 'encoder': name a finished run's folder"):
        build_data(load(["asd_streaming"]))
