"""The dashboard's benchmark measures what it says."""

import json
from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.dashboard import generate, index


def test_it_prints_and_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--records", "20", "--points", "5", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    assert main(["bench", "dashboard", *arguments]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["records"] == 20
    assert set(result["seconds"]) == {"floor", "index_cold", "index_warm", "index_changed", "payload", "page"}
    assert result["page_bytes"] > result["payload_bytes"] > 0
    assert "page below 15 MB: reached" in capsys.readouterr().out


def test_records_of_ones_own_are_measured_and_their_index_is_left_alone(tmp_path: Path):
    generate.write(tmp_path / "runs", 6, points=5)
    target = tmp_path / "out.json"
    arguments = ["--runs-dir", str(tmp_path / "runs"), "--repeats", "1", "--json", str(target)]
    assert main(["bench", "dashboard", *arguments]) == 0
    assert json.loads(target.read_text())["records"] == 6
    assert not (tmp_path / "runs" / index.CACHE).exists()
