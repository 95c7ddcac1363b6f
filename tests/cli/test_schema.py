import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lightsleeper.cli.schema import recipe_schema
from lightsleeper.recipe import parse, shipped


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_recipes_and_overlays_satisfy_the_schema(name, validator):
    assert [error.message for error in validator.iter_errors(parse(shipped()[name])[0])] == []


@pytest.mark.parametrize(
    "recipe",
    [
        {"trainr": {}},
        {"trainer": {"max_epoch": 3}},
        {"trainer": {"max_epochs": "three"}},
        {"run": {"stages": ["fitt"]}},
        {"seed_everything": -1},
        {"model": {"class_path": "KeywordDPS"}},
        {"callbacks": {"early": {"class_path": "EarlyStopping", "init_args": {"monitr": "x"}}}},
        {"callbacks": {"early": {"class_path": "EarlyStopping", "init_arg": {}}}},
        {"requires": {"encoder": {"recip": "x"}}},
        {"requires": {"encoder": {"recipe": "x", "set": {"trainer": {"max_epoch": 3}}}}},
    ],
)
def test_mistakes_do_not(recipe, validator):
    assert not validator.is_valid(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"model": {"class_path": "my.own.Net", "init_args": {"anything": 3}}},
        {"callbacks": {"prune": None, "early": "EarlyStopping", "knob": {"sparsity": 0.9}}},
        {"requires": {"encoder": "kws_encoder"}},
        {"trainer": None},
    ],
)
def test_overlays_and_own_classes_do(recipe, validator):
    assert validator.is_valid(recipe)


def test_keys_carry_their_texts_and_defaults(validator):
    project = validator.schema["properties"]["tracking"]["properties"]["project"]
    assert project == {"type": "string", "description": "W&B project.", "default": "lightsleeper"}


def test_the_command_prints_or_writes_the_same_schema(tmp_path: Path, cli):
    printed = json.loads(cli("schema").out)
    assert cli("schema", "--output", str(tmp_path / "a" / "recipe.json")).code == 0
    assert json.loads((tmp_path / "a" / "recipe.json").read_text()) == printed
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["recipe.json"]
