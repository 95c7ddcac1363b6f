import pytest
from lightsleeper.recipe import parse, shipped


def test_a_valid_recipe_is_reported_in_one_line(recipe, cli):
    result = cli("validate", "boring.yaml", "--trust")
    assert result.code == 0
    assert result.out.startswith("ok: boring.yaml: lightning.pytorch.demos.boring_classes.BoringModel on ")
    assert result.out.endswith("; callbacks early\n")


def test_each_failure_of_many_recipes_is_one_line(recipe, cli):
    text = recipe.read_text()
    (recipe.parent / "typo.yaml").write_text(text.replace("monitor:", "monitr:"))
    (recipe.parent / "clash.yaml").write_text(text + "trainer: {}\n")
    result = cli("validate", "typo.yaml", "boring.yaml", "clash.yaml", "absent.yaml", "--trust")
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error: typo.yaml:8: callbacks.early.init_args.monitr: EarlyStopping has no argument")
    assert lines[1] == "error: clash.yaml:10: duplicate key 'trainer', first on line 9."
    assert lines[2].startswith("error: no recipe 'absent.yaml'.")
    assert result.out.startswith("ok: boring.yaml")


def test_a_class_of_ones_own_needs_trust(recipe, cli):
    result = cli("validate", "boring.yaml")
    assert result.code == 2
    assert "is not a shipped class" in result.err
    assert "--trust" in result.err


def test_files_without_a_model_are_overlays_of_the_recipe_before(recipe, cli):
    (recipe.parent / "overlay.yaml").write_text(
        "callbacks: {early: {patience: 5}, timer: Timer}\nmodel: {}\ndata: {}\n"
    )
    result = cli("validate", "boring.yaml", "overlay.yaml", "--trust", "--resolved")
    assert result.code == 0
    (recipe.parent / "resolved.yaml").write_text(result.out)
    callbacks = parse(recipe.parent / "resolved.yaml")[0]["callbacks"]
    assert callbacks["early"]["init_args"]["patience"] == 5
    assert list(callbacks) == ["early", "timer"]
    assert result.err.startswith("ok: boring.yaml + overlay.yaml")


def test_print_gives_the_merged_recipe_as_yaml(recipe, cli):
    result = cli("validate", "boring.yaml", "--print", "--trust", "--trainer.max_epochs", "5")
    (recipe.parent / "merged.yaml").write_text(result.out)
    merged = parse(recipe.parent / "merged.yaml")[0]
    assert merged["trainer"] == {"max_epochs": 5}
    assert "run" not in merged


def test_required_recipes_are_checked_too(recipe, cli):
    text = recipe.read_text()
    recipe.write_text(text + "requires: {middle: middle}\n")
    (recipe.parent / "middle.yaml").write_text(text + "requires: {step: step}\n")
    (recipe.parent / "step.yaml").write_text(text.replace("max_epochs", "max_epoch"))
    result = cli("validate", "boring.yaml", "--trust")
    assert result.code == 2
    assert result.err.startswith("error: step.yaml:9: trainer.max_epoch: trainer has no argument 'max_epoch'.")


def test_what_a_constructor_refuses_is_refused(recipe, cli):
    result = cli("validate", "boring.yaml", "--trust", "--callbacks.early.mode=mx")
    assert result.code == 2
    assert "callbacks.early: `mode` can be min, max, got mx" in result.err


@pytest.mark.parametrize("name", [name for name in shipped() if "/" not in name])
def test_shipped_recipes_are_valid_without_trust(name, cli):
    result = cli("validate", name)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("name", [name for name in shipped() if "/" in name])
def test_shipped_overlays_are_valid_on_a_recipe(name, cli):
    """An overlay says in its `Run:` line what it goes on."""
    line = next(line for line in shipped()[name].read_text().splitlines() if "Run:" in line)
    words = [word for word in line.partition("lightning run ")[2].split() if word.endswith(".yaml")]
    assert f"recipes/{name}.yaml" in words
    result = cli("validate", *words)
    if "pretrained:" in shipped()[name].read_text():  # weights of the hub, where there may be none
        assert result.code == 0 or ("nor reachable on the hub" in result.err and result.err.count("\n") == 1)
        return
    assert (result.code, result.err) == (0, "")
