def test_a_key_is_explained_with_type_default_value_and_place(recipe, cli):
    result = cli("explain", "boring.yaml", "callbacks.early.init_args.monitor", "--trust")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[:4] == [
        "callbacks.early.init_args.monitor",
        "  type     str",
        "  default  none: must be given",
        '  value    "val/loss"  (boring.yaml:8)',
    ]
    assert "monitored" in lines[4]


def test_init_args_may_be_left_out_and_overrides_show(recipe, cli):
    out = cli("explain", "boring.yaml", "callbacks.early.patience", "--trust", "--callbacks.early.patience=9").out
    assert "  default  3\n  value    9  (command line)\n" in out


def test_our_own_sections_are_documented(recipe, cli):
    out = cli("explain", "boring.yaml", "run.threads", "--trust").out
    assert "  type     int or null\n  default  null\n  value    null  (default)\n  CPU threads" in out
    assert "Seed of every" in cli("explain", "boring.yaml", "seed_everything", "--trust").out


def test_a_section_lists_its_keys_with_their_texts(recipe, cli):
    out = cli("explain", "boring.yaml", "tracking", "--trust").out
    assert 'tracking.project = "lightsleeper"  (str)\n    W&B project.' in out


def test_without_a_key_every_key_is_listed(recipe, cli):
    lines = cli("explain", "boring.yaml", "--trust").out.splitlines()
    assert "seed_everything = 3  (int)" in lines
    assert "trainer.max_epochs = 2  (int or null)" in lines
    assert "callbacks.early  (class EarlyStopping)" in lines


def test_overlays_count(recipe, cli):
    (recipe.parent / "overlay.yaml").write_text("trainer: {max_epochs: 5}\n")
    out = cli("explain", "boring.yaml", "overlay.yaml", "trainer.max_epochs", "--trust").out
    assert "  value    5  (overlay.yaml:1)" in out


def test_an_unknown_key_gives_the_nearest(recipe, cli):
    result = cli("explain", "boring.yaml", "trainer.max_epoch", "--trust")
    assert result.code == 2
    assert "Did you mean 'trainer.max_epochs'?" in result.err
