"""What a machine remembers of a sweep."""

import os
from pathlib import Path

import pytest
from lightsleeper.search import folder as folders


def test_a_copy_of_the_sweep_file_that_was_cut_short_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "s.yaml"
    known = folders.Known("s-1", "s.yaml", None, None, False, "2026-11-26T05:00:00+00:00")
    source.write_text("method: grid\n")
    copy = folders.save(tmp_path / "runs", known, source) / "s.yaml"
    source.write_text("method: random\n")

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.save(tmp_path / "runs", known, source)
    assert copy.read_text() == "method: grid\n"
