"""The folders keep their promises: what is importable, who imports whom, and that every recipe parses."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from lightsleeper.recipe import SECTIONS, header, load, parse, required

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ROOT / "platform" / "lightsleeper"
CALLBACKS = ROOT / "callbacks" / "lightsleeper_callbacks"
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))

# what each package must not import; the programs sit beside cli and may import everything
PROGRAMS = ("cli", "bench", "stages", "experiment")
UPPER = ("deploy", "generation", "tracking", "dashboard", "search", "recipe", *PROGRAMS)
FORBIDDEN = {
    "data": ("models", "nn", *UPPER),
    "nn": ("models", "data", *UPPER),
    "metrics": ("models", "nn", "data", *UPPER),
    "models": ("data", *UPPER),
    "recipe": ("models", "nn", "data", "metrics", "tracking", "dashboard", "search", *PROGRAMS),
    "deploy": ("generation", "tracking", "dashboard", "search", *PROGRAMS),
    "generation": ("models", "nn", "data", "metrics", "recipe", "tracking", "dashboard", "search", *PROGRAMS),
    "tracking": ("deploy", "dashboard", "search", *PROGRAMS),
    "dashboard": ("models", "nn", "data", "deploy", "search", "recipe", *PROGRAMS),
    "search": ("deploy", "dashboard", "cli", "bench"),
    "stages": ("cli", "bench", "experiment"),
    "bench": ("cli",),
}
LEAVES = ("errors", "phones", "recipe/catalog", "run_folder")


def imports(file: Path) -> list[tuple[str, int]]:
    """Every absolute name a file imports, inside functions too, with its line."""
    found: list[tuple[str, int]] = []
    package = file.relative_to(ROOT).parts[1:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


SOURCES = sorted(PLATFORM.rglob("*.py"))


def test_platform_holds_no_init_file():
    """It would hide the standard library's `platform` and break torch."""
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "callbacks" / "__init__.py").exists()


def test_the_standard_library_platform_wins_from_the_repository_root():
    code = "import platform; print(platform.system())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["platform", "callbacks", "recipes", "sweeps", "tests"])
def test_nothing_installs_under_the_names_of_our_folders(name):
    owners = importlib.metadata.packages_distributions()
    assert "lightsleeper" not in owners.get(name, [])


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(PLATFORM).as_posix())
def test_imports_point_one_way(file):
    package = file.relative_to(PLATFORM).parts[0]
    wrong = [
        f"line {line}: {name}"
        for name, line in imports(file)
        for target in FORBIDDEN.get(package, ())
        if name == f"lightsleeper.{target}" or name.startswith(f"lightsleeper.{target}.")
    ]
    assert wrong == []


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_import_nothing_of_ours(name):
    assert [imported for imported, _ in imports(PLATFORM / f"{name}.py") if imported.startswith("lightsleeper")] == []


def test_recipes_are_read_without_torch():
    code = "import sys, lightsleeper.recipe; print(sorted({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("file", sorted(CALLBACKS.rglob("*.py")), ids=lambda file: file.name)
def test_the_callbacks_import_torch_and_lightning_and_what_one_method_needs_where_it_needs_it(file):
    allowed = {"torch", "lightning", "lightsleeper_callbacks", *sys.stdlib_module_names}
    inside = {"safetensors", "transformers", "torch_pruning"}
    top = {node.lineno for node in ast.parse(file.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))}
    names = {(name.partition(".")[0], line in top) for name, line in imports(file)}
    assert [name for name, outside in names if name not in (allowed if outside else allowed | inside)] == []


def test_importing_the_callbacks_imports_nothing_of_lightsleeper():
    code = (
        "import pkgutil, sys, importlib, lightsleeper_callbacks as package\n"
        "for module in pkgutil.walk_packages(package.__path__, 'lightsleeper_callbacks.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('lightsleeper', 'torch_pruning')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("[]\n", 0), result.stderr[-500:]


def test_every_package_has_an_init_file():
    folders = {file.parent for file in SOURCES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_there_are_recipes():
    assert {"recipes/kws_dsp.yaml", "recipes/kws_encoder.yaml"} <= {f.relative_to(ROOT).as_posix() for f in RECIPES}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_recipe_parses_and_says_what_it_is_and_how_to_run_it(file):
    config, _ = parse(file)
    assert set(config) <= set(SECTIONS)
    assert header(file)
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    command = next(line for line in comments if "lightning run " in line)
    assert file.relative_to(ROOT).as_posix() in command


@pytest.mark.parametrize(
    "file", [f for f in RECIPES if f.parent.name == "recipes"], ids=lambda file: file.relative_to(ROOT).as_posix()
)
def test_every_recipe_loads_with_what_it_requires(file):
    recipe = load([file])
    assert {"model", "data"} <= recipe.config.keys()
    assert set(required(recipe)) == set(recipe.config.get("requires") or {})
