"""What README and guides tell people to type exists: commands, options, recipes, extras, files."""

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightsleeper import recipe
from lightsleeper.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PIP_OPTIONS = re.compile(r" (-q|-c \S+)(?=\s|$)")  # how CI installs differs in these alone


def code_lines(page: Path) -> Iterator[str]:
    """Lines of indented and fenced code blocks, without trailing comments."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield re.sub(r"\s+# .*", "", line.strip())


def commands(page: Path, program: str) -> list[str]:
    """Command lines of ``program`` in a page's code blocks, one for each side of `&&`."""
    parts = [part.strip() for line in code_lines(page) for part in line.split("&&")]
    return [part for part in parts if part.split(" ")[0] == program]


def typed(program: str) -> list:
    return [
        pytest.param(line, id=f"{page.name}: {line}")
        for page in PAGES
        for line in dict.fromkeys(commands(page, program))
    ]


def ci(prefix: str) -> list[str]:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    return [line for line in (PIP_OPTIONS.sub("", line.strip()) for line in lines) if line.startswith(prefix)]


def test_the_readme_shows_what_the_issue_asks_for():
    blocks = list(code_lines(README))
    assert "pip install -e '.[demo]' && lightning run recipes/kws_dsp.yaml" in blocks
    assert "pip install -e '.[test]' && pytest" in blocks


@pytest.mark.parametrize("line", typed("lightning"))
def test_a_command_of_the_pages_is_understood(line: str, monkeypatch: pytest.MonkeyPatch, capsys):
    """The real parser of the real sub-command reads it; only the action is left out."""
    words = shlex.split(line.split(" > ")[0])[1:]
    if words[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[words[0]][0])
        monkeypatch.setattr(module, "main", lambda args: 0)
    assert main(words) == 0, capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    made = {name for page in PAGES for name in re.findall(r"^```\w+ (\S+)$", page.read_text(), re.MULTILINE)}
    for word in set(words) - made:  # not a file that the page itself tells to write
        if word.endswith(".yaml") and word.startswith(("recipes/", "sweeps/")):
            assert (ROOT / word).is_file(), word
        elif word.endswith(".yaml") and words[0] in ("run", "validate", "explain", "data"):
            recipe.find(word)


def test_commands_named_in_the_table_exist():
    rows = re.findall(r"^\| (`lightning .*?) \|(?!`)", README.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [name for row in rows for name in re.findall(r"`(?:lightning )?(\w+)", row)]
    assert set(cells) == set(COMMANDS)


@pytest.mark.parametrize("start", ["pip install torch", "pip install -e '.[test]'"])
def test_what_ci_runs_is_what_the_readme_says(start: str):
    shown = [line for line in code_lines(README) if line.startswith(start)]
    assert len(shown) == 1
    assert ci(start) == shown


def test_files_that_ci_installs_with_exist():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in re.findall(r" -c (\S+)", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_named_on_a_page_exist(page: Path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"\.\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for group in named for extra in group.split(",")} <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    files = [(page.parent / link).resolve() for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [file.relative_to(ROOT).as_posix() for file in files if not file.exists()] == []


def test_the_python_version_is_the_packages_own():
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert f"Python {requires.removeprefix('>=')} or newer" in README.read_text(encoding="utf-8")
