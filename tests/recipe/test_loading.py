"""Finding, merging, overriding and hashing of recipes; every refusal is one UserError with its place."""

from pathlib import Path

import pytest
from lightsleeper import recipe as recipes
from lightsleeper.errors import UserError
from lightsleeper.recipe import (
    config_hash,
    dump,
    find,
    group_hash,
    header,
    load,
    merge,
    parse,
    parse_value,
    required,
    shipped,
    substitute,
)

BASE = """\
# What it trains.
# Second line.
seed_everything: 7
requires: {encoder: step}
model:
  class_path: KeywordDSP
  init_args: {encoder: "${requires.encoder}", dim: 96, past_frames: 40, sizes: [1, 2]}
data: {class_path: SpokenPhrases}
callbacks:
  prune: {class_path: Timer, init_args: {duration: "00:01:00:00", interval: step}}
  early: {class_path: EarlyStopping, init_args: {monitor: val/loss}}
trainer: {max_epochs: 12}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "step.yaml").write_text("model: {class_path: PhonemeCTC, init_args: {dim: 48}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overlay(folder: Path, text: str) -> recipes.Config:
    (folder / "overlay.yaml").write_text(text)
    return load(["base.yaml", "overlay.yaml"]).config


# --- merge ---


def test_an_overlay_that_names_one_callback_keeps_the_others(folder):
    config = overlay(folder, "callbacks: {prune: {init_args: {interval: epoch}}}")
    assert config["callbacks"]["early"] == {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
    assert config["callbacks"]["prune"]["init_args"] == {"duration": "00:01:00:00", "interval": "epoch"}


def test_loose_keys_of_an_overlay_are_arguments_of_the_class(folder):
    assert overlay(folder, "model: {dim: 64}")["model"]["init_args"]["dim"] == 64


def test_null_removes_a_callback_and_a_section(folder):
    config = overlay(folder, "callbacks: {prune: null}\ntrainer: null")
    assert list(config["callbacks"]) == ["early"]
    assert "trainer" not in config


def test_an_empty_section_is_no_section(folder):
    (folder / "base.yaml").write_text("model: {class_path: A}\ntrainer:\ncallbacks: {x: null}\n")
    assert load(["base.yaml"]).config == {"model": {"class_path": "A"}, "callbacks": {}}


def test_null_is_a_value_for_a_plain_argument(folder):
    assert overlay(folder, "model: {init_args: {past_frames: null}}")["model"]["init_args"]["past_frames"] is None


def test_lists_replace(folder):
    assert overlay(folder, "model: {init_args: {sizes: [3]}}")["model"]["init_args"]["sizes"] == [3]


def test_a_changed_class_drops_the_old_arguments(folder):
    config = overlay(folder, "model: {class_path: PhonemeCTC, init_args: {blocks: 2}}")
    assert config["model"] == {"class_path": "PhonemeCTC", "init_args": {"blocks": 2}}


def test_the_same_class_by_its_dotted_path_keeps_them(folder):
    config = overlay(folder, "model: {class_path: lightsleeper.models.kws_dsp.KeywordDSP, init_args: {dim: 1}}")
    assert config["model"]["init_args"]["past_frames"] == 40


def test_merging_changes_no_overlay():
    part = {"model": {"class_path": "A", "init_args": {"sizes": [1]}}}
    merged = merge({}, part)
    merged["model"]["init_args"]["sizes"].append(3)
    merge(merged, {"model": {"init_args": {"sizes": None}}})
    assert part == {"model": {"class_path": "A", "init_args": {"sizes": [1]}}}


# --- overrides ---


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("--model.dim=32", ("model", "init_args", "dim"), 32),
        ("--model.init_args.dim=32", ("model", "init_args", "dim"), 32),
        ("--callbacks.prune.interval=epoch", ("callbacks", "prune", "init_args", "interval"), "epoch"),
        ("--trainer.max_epochs=3", ("trainer", "max_epochs"), 3),
        ("--trainer.lr=1e-3", ("trainer", "lr"), 0.001),
        ("--model.word=no", ("model", "init_args", "word"), "no"),
        ("--model.sizes=[4, 5]", ("model", "init_args", "sizes"), [4, 5]),
        ("--model.past_frames=null", ("model", "init_args", "past_frames"), None),
        ("--seed_everything=3", ("seed_everything",), 3),
        ("--requires.encoder.set.trainer.max_epochs=1", ("requires", "encoder", "set", "trainer", "max_epochs"), 1),
        ("--callbacks.new.class_path=Timer", ("callbacks", "new", "class_path"), "Timer"),
        ("--callbacks.new=Timer", ("callbacks", "new", "class_path"), "Timer"),
    ],
)
def test_an_override_sets_one_value(folder, text, path, value):
    node = load(["base.yaml"], [text]).config
    for part in path:
        node = node[part]
    assert node == value


def test_an_override_switches_a_callback_off(folder):
    assert list(load(["base.yaml"], ["--callbacks.prune=null"]).config["callbacks"]) == ["early"]


def test_overrides_apply_left_to_right_after_the_files(folder):
    (folder / "overlay.yaml").write_text("model: {dim: 1}")
    assert load(["base.yaml", "overlay.yaml"], ["--model.dim=2", "--model.dim=3"]).config["model"]["init_args"][
        "dim"
    ] == 3  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("--modl.dim=3", ["unknown section 'modl'", "Did you mean 'model'?"]),
        ("--callbacks.prun=null", ["no callbacks.prun", "Did you mean 'prune'?"]),
        ("--callbacks.prun.sparsity=0.9", ["no callbacks.prun", "Did you mean 'prune'?"]),
        ("--requires.encodr.set.model.dim=3", ["no requires.encodr", "Did you mean 'encoder'?"]),
        ("--trainer.max_epochs.x=3", ["trainer.max_epochs is 12, not a mapping"]),
        ("--model.sizes.0=3", ["model.sizes is a list, not a mapping"]),
        ("--model", ["expected --section.key=value"]),
        ("--model..dim=3", ["expected --section.key=value"]),
        ("--model.dim=[1,", ["--model.dim=[1,", "YAML syntax"]),
    ],
)
def test_an_impossible_override_is_refused(folder, text, parts):
    with pytest.raises(UserError) as caught:
        load(["base.yaml"], [text])
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


# --- files ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {a: 1\ntrainer: 3\n", "bad.yaml:2: YAML syntax"),
        ("model: A\ntrainer: {x: 1}\nmodel: B\n", "bad.yaml:3: duplicate key 'model', first on line 1."),
        ("trainer:\n  x: 1\n  x: 2\n", "bad.yaml:3: duplicate key 'x' in 'trainer', first on line 2."),
        ("- 1\n- 2\n", "bad.yaml: expected a mapping of sections (model, data, trainer ...), got a list."),
        ("", "bad.yaml: expected a mapping of sections (model, data, trainer ...), got nothing."),
        ("\ntrainr: {}\n", "bad.yaml:2: unknown section 'trainr'. Did you mean 'trainer'?"),
        ("model: !!python/object/apply:os.getcwd []\n", "bad.yaml:1: YAML: the tag 'tag:yaml.org"),
        ("model: !!python/name:os.getcwd x\n", "bad.yaml:1: YAML syntax: could not determine a constructor"),
        ("model: &a {b: *a}\n", "contains itself"),
        ("? [1, 2]\n: 3\n", "bad.yaml:1: YAML: a key must be a plain value."),
        ("callbacks: [Timer]\n", "bad.yaml:1: callbacks: expected a mapping of names, got a list."),
        ("requires: {encoder: [a]}\n", "bad.yaml:1: requires.encoder: expected a recipe name"),
        ("requires:\n  encoder: {recip: a}\n", "bad.yaml:2: requires.encoder: unknown key 'recip'"),
        ("model: {x: '${requires.encodr}'}\nrequires: {encoder: a}\n", "bad.yaml:1: model.x: no step 'encodr'"),
        ("a: 1\n---\nb: 2\n", "YAML syntax: expected a single document"),
        ("trainer: \x07\n", "bad.yaml: YAML syntax"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_its_place(folder, text, message):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(["bad.yaml"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_files_are_refused(folder):
    (folder / "bad.yaml").write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(UserError, match="not UTF-8 text"):
        load(["bad.yaml"])


def test_every_key_knows_its_place(folder):
    (folder / "overlay.yaml").write_text("\n\nmodel: {dim: 3}")
    recipe = load(["base.yaml", "overlay.yaml"], ["--trainer.max_epochs=1"])
    assert recipe.where("model.init_args.dim") == "overlay.yaml:3"
    assert recipe.where("model.init_args.past_frames") == "base.yaml:7"
    assert recipe.where("callbacks.early.init_args.unheard_of") == "base.yaml:11"
    assert recipe.where("trainer.max_epochs") == "command line"


@pytest.mark.parametrize(
    "value", ["no", "on", "1:30", "1e-3", "0x10", "~", "true", "2026-11-23", "a: b", "", "007", "."]
)
def test_text_survives_a_dump(value, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(dump({"data": {"words": [value]}}))
    assert parse(file)[0] == {"data": {"words": [value]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1_000", 1000), ("010", 10), ("0x10", 16), ("no", "no"), ("true", True), ("~", None), ("", "")],
)
def test_plain_values_follow_yaml_1_2(text, value):
    assert parse_value(text, "--x") == value
    assert type(parse_value(text, "--x")) is type(value)


def test_anchors_and_merge_keys_work(tmp_path):
    (tmp_path / "x.yaml").write_text("run: &a {threads: 1}\ntracking: {<<: *a, project: p}\n")
    assert parse(tmp_path / "x.yaml")[0]["tracking"] == {"threads": 1, "project": "p"}


# --- find ---


def test_a_recipe_is_found_by_path_by_stem_and_as_run_folder(folder):
    assert find("base.yaml") == find("base") == Path("base.yaml")
    run = folder / "runs" / "kws" / "20261123-101010-abcd"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: A")
    (run / "record.json").write_text("{}")
    assert find(str(run)) == run / "recipe.yaml"
    assert load([str(run)]).name == "kws"


def test_shipped_recipes_are_found_from_any_folder(folder):
    assert "kws_dsp" in shipped()
    assert find("kws_dsp") == find("recipes/kws_dsp.yaml") == shipped()["kws_dsp"]
    assert find("overlays/tiny").is_file()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("kws_dps", "kws_dsp"),
        ("recipes/kws_dps.yaml", "kws_dsp"),
        ("tinny", "overlays/tiny"),
        ("recipes/kws_dsp.yml", "kws_dsp"),
        ("base.yml", "base.yaml"),
    ],
)
def test_a_missing_recipe_gives_the_nearest_name(folder, name, near):
    with pytest.raises(UserError, match=f"Did you mean '{near}'"):
        find(name)


def test_a_folder_without_recipe_is_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"folder without recipe\.yaml"):
        find("empty")


def test_the_header_is_the_first_comment_line(folder):
    assert header(Path("base.yaml")) == "What it trains."
    assert header(Path("step.yaml")) == ""


# --- requirements ---


def test_requirements_are_loaded_beside_the_recipe_with_their_changes_on_top(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    step = required(load(["../base.yaml"], ["--requires.encoder.set.model.dim=8"]))["encoder"]
    assert step.name == "step"
    assert step.config["model"] == {"class_path": "PhonemeCTC", "init_args": {"dim": 8}}
    assert step.where("model.init_args.dim") == "command line"


def test_a_complete_set_replaces_the_required_recipe(folder):
    recipe = load(["base.yaml"])
    (folder / "step.yaml").write_text("model: {class_path: PhonemeCTC}\ncallbacks: {early: EarlyStopping}\n")
    whole = {section: {} for section in recipes.SECTIONS} | {"seed_everything": 1, "model": {"class_path": "Other"}}
    recipe.config["requires"]["encoder"]["set"] = whole
    assert required(recipe)["encoder"].config == whole


def test_a_circle_of_requirements_is_refused(folder):
    (folder / "step.yaml").write_text("requires: {back: base}\n")
    with pytest.raises(UserError, match="circle base -> step -> base"):
        required(required(load(["base.yaml"]))["encoder"])


def test_a_missing_requirement_names_the_line(folder):
    (folder / "base.yaml").write_text(BASE.replace("encoder: step", "encoder: stepp"))
    with pytest.raises(UserError, match=r"base.yaml:4: requires.encoder: no recipe 'stepp'"):
        required(load(["base.yaml"]))


def test_run_folders_replace_references(folder):
    config = {"a": ["${requires.encoder}/export", 3], "b": {"c": "x"}}
    assert substitute(config, {"encoder": Path("/runs/1")}) == {"a": ["/runs/1/export", 3], "b": {"c": "x"}}
    assert config["a"][0] == "${requires.encoder}/export"
    with pytest.raises(UserError, match="no step 'encodr'"):
        substitute("${requires.encodr}", {"encoder": "x"})


# --- identity ---


def test_the_hash_ignores_key_order_tracking_and_run_but_nothing_else():
    config = {"seed_everything": 1, "model": {"a": 1, "b": 2}}
    same = {"tracking": {"project": "x"}, "run": {"threads": 1}, "model": {"b": 2, "a": 1}, "seed_everything": 1}
    assert config_hash(config) == config_hash(same)
    assert config_hash(config) != config_hash({**config, "model": {"a": 1, "b": 3}})
    assert config_hash(config) != config_hash({**config, "seed_everything": 2})


def test_runs_that_differ_in_the_seed_share_a_group():
    assert group_hash({"seed_everything": 1, "model": {}}) == group_hash({"seed_everything": 2, "model": {}})
    assert group_hash({"model": {"a": 1}}) != group_hash({"model": {"a": 2}})
