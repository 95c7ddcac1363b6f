from pathlib import Path

from lightsleeper.recipe import header, shipped

FILES = shipped() | {f"sweeps/{name}": file for name, file in shipped("sweeps").items()}


def test_recipes_and_sweeps_are_listed_with_their_first_line(cli):
    result = cli("recipes")
    lines = result.out.splitlines()
    assert len(lines) == len(FILES) > len(shipped()) > 0
    assert all(line.startswith(name) and line.endswith(header(file)) for line, (name, file) in zip(
        lines, FILES.items(), strict=True))  # fmt: skip


def test_every_recipe_has_a_header_line():
    assert [name for name, file in FILES.items() if not header(file)] == []


def test_copies_are_equal_to_the_shipped_files(tmp_path: Path, cli):
    assert cli("recipes", "--copy", str(tmp_path / "mine")).code == 0
    copied = {file.relative_to(tmp_path / "mine").as_posix(): file.read_text() for file in tmp_path.rglob("*.yaml")}
    assert copied == {f"{name}.yaml": file.read_text() for name, file in FILES.items()}


def test_copying_never_overwrites_and_copies_nothing_then(tmp_path: Path, cli):
    name = list(FILES)[-1]
    target = tmp_path / f"{name}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("mine")
    result = cli("recipes", "--copy", str(tmp_path))
    assert result.code == 2
    assert "exists already" in result.err
    assert [file.read_text() for file in tmp_path.rglob("*.yaml")] == ["mine"]


def test_copying_onto_a_file_is_refused(tmp_path: Path, cli):
    (tmp_path / "file").write_text("x")
    result = cli("recipes", "--copy", str(tmp_path / "file"))
    assert result.code == 2
    assert "is not a folder" in result.err
