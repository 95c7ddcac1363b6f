"""The index reads each record once, and again only when it has changed; what is no record is named."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from lightsleeper.dashboard import generate, index
from lightsleeper.dashboard.rows import TABLE
from lightsleeper.run_folder import RECORD


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generate.write(tmp_path / "runs", 12, points=5)
    return tmp_path / "runs"


def records(root: Path) -> list[Path]:
    return sorted(root.rglob(RECORD))


def by_path(table: pa.Table) -> dict[str, dict]:
    return {row["path"]: row for row in table.drop(["key"]).to_pylist()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were read."""
    found: list[str] = []
    original = index.read

    def counted(path: Path) -> dict:
        found.append(path.parent.name)
        return original(path)

    monkeypatch.setattr(index, "read", counted)
    return found


def test_a_second_call_reads_no_record(root: Path, reads: list[str]):
    first = index.load(root)
    assert len(reads) == len(first) == 12
    assert index.load(root).equals(first)
    assert len(reads) == 12


def test_only_changed_and_new_records_are_read_again_and_deleted_ones_go(root: Path, reads: list[str]):
    index.load(root)
    changed, deleted, *_ = records(root)
    changed.write_text(changed.read_text().replace('"status": ', '"note": 1, "status": '))
    shutil.rmtree(deleted.parent)
    new = root / "kws_dsp" / "20270101-000000-0000"
    shutil.copytree(records(root)[5].parent, new)
    reads.clear()
    table = index.load(root)
    assert sorted(reads) == sorted([changed.parent.name, new.name])
    assert len(table) == 12
    assert str(deleted.relative_to(root)) not in by_path(table)


def test_an_incremental_index_equals_a_full_rebuild(root: Path):
    index.load(root)
    for number, path in enumerate(records(root)):
        if number % 3 == 0:
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "status": "failed", "error": f"error {number}"}))
        elif number % 3 == 1:
            shutil.rmtree(path.parent)
    generate.write(root, 4, seed=5, points=5)
    table = index.load(root)
    assert by_path(table) == by_path(index.load(root, keep=False))
    assert by_path(index.load(root)) == by_path(table)


def test_a_record_replaced_by_one_of_equal_size_and_time_is_seen(root: Path):
    index.load(root)
    path = records(root)[-1]
    before = path.stat()
    other = path.with_name("new")
    other.write_text(path.read_text().replace('"finished"', '"FINISHED"'))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_size == before.st_size
    assert "FINISHED" in index.load(root)["status"].to_pylist()


@pytest.mark.parametrize("damage", [b"", b"ARROW1 no more", None])
def test_a_damaged_index_is_built_anew(root: Path, damage: bytes | None):
    whole = index.load(root)
    cache = root / index.CACHE
    cache.write_bytes(cache.read_bytes()[:-200] if damage is None else damage)
    assert by_path(index.load(root)) == by_path(whole)
    assert by_path(index.load(root)) == by_path(whole)


def test_a_flipped_bit_is_noticed(root: Path):
    whole = by_path(index.load(root))
    cache = root / index.CACHE
    content = cache.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        changed = bytearray(content)
        changed[place] ^= 0x10
        cache.write_bytes(changed)
        assert by_path(index.load(root)) == whole


def test_an_index_of_another_version_is_built_anew(root: Path, monkeypatch: pytest.MonkeyPatch):
    whole = index.load(root)
    monkeypatch.setattr(index, "TABLE", TABLE.with_metadata({"lightsleeper.index": "0"}))
    index._write(whole.slice(0, 3).replace_schema_metadata(index.TABLE.metadata), root / index.CACHE)
    monkeypatch.undo()
    assert by_path(index.load(root)) == by_path(whole)


def test_where_nothing_can_be_written_the_index_works_without_a_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(index.Path, "open", refuse)
    assert len(index.load(root)) == 12
    assert not (root / index.CACHE).exists()


def test_nothing_is_left_beside_the_index(root: Path):
    index.load(root)
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == [index.CACHE]


def test_a_folder_that_does_not_exist_has_no_runs(tmp_path: Path):
    assert index.load(tmp_path / "none").equals(TABLE.empty_table())


def test_links_to_folders_are_followed_once_and_loops_end(root: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    generate.write(elsewhere, 3, seed=9, points=5)
    (root / "linked").symlink_to(elsewhere)
    (root / "kws_dsp" / "loop").symlink_to(root)
    (root / "kws_dsp" / "self").symlink_to(root / "kws_dsp" / "self")
    assert len(index.load(root)) == 15


def test_hidden_folders_and_what_lies_inside_a_run_are_not_searched(root: Path):
    run = records(root)[0].parent
    for place in (root / ".trash" / "a", run / "wandb" / "files"):
        place.mkdir(parents=True)
        (place / RECORD).write_text("{}")
    assert len(index.load(root)) == 12


def test_a_single_run_folder_can_be_indexed(root: Path):
    assert len(index.load(records(root)[3].parent)) == 1


def test_a_file_name_of_any_bytes_is_shown(root: Path):
    source = records(root)[0].parent
    shutil.copytree(source, os.fsdecode(os.fsencode(source) + b"-\xff\xfe"))
    table = index.load(root)
    assert len(table) == 13
    assert any(path.endswith("-\\xff\\xfe/record.json") for path in table["path"].to_pylist())
    assert len(index.load(root)) == 13
