"""The data of a recipe without its model: to judge another model by them, or to listen to them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.errors import UserError
from lightsleeper.recipe.loading import load

if TYPE_CHECKING:
    import lightning as L


def recipe_data(given: Sequence[str | Path], overrides: Sequence[str] = ()) -> "L.LightningDataModule":
    """The data module of a recipe with overlays, drawn with its seed. Raises UserError with key and line."""
    recipe = load([Path(name) for name in given], list(overrides))
    if "data" not in recipe.config:
        raise UserError(f"--data {' '.join(map(str, given))}: the recipe has no section 'data'.")
    import lightning as L

    from lightsleeper.recipe import parsing

    # Any model will do in place of the recipe's: that one may need a step that has not been run here.
    kept = ("seed_everything", "data")
    config: dict[str, Any] = {key: value for key, value in recipe.config.items() if key in kept}
    recipe = replace(recipe, config={**config, "model": {"class_path": "PhonemeCTC"}})
    resolved = parsing.resolve(recipe)
    L.seed_everything(resolved["seed_everything"], verbose=False)
    return parsing.build(resolved, recipe).data
