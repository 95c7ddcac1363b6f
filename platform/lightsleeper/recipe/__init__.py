"""A recipe: YAML files found, merged and hashed as plain data. What imports torch is in `parsing`."""

from lightsleeper.recipe.loading import Recipe, config_hash, group_hash, load, references, required, substitute
from lightsleeper.recipe.lookup import find, header, shipped, shipped_folders
from lightsleeper.recipe.overlay import SECTIONS, Config, merge, override, plain
from lightsleeper.recipe.yaml_io import dump, parse, parse_value, shown

__all__ = [
    "SECTIONS",
    "Config",
    "Recipe",
    "config_hash",
    "dump",
    "find",
    "group_hash",
    "header",
    "load",
    "merge",
    "override",
    "parse",
    "parse_value",
    "plain",
    "references",
    "required",
    "shipped",
    "shipped_folders",
    "shown",
    "substitute",
]
