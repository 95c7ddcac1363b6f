"""`lightning dashboard` from the command line."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.dashboard import generate, make
from lightsleeper.errors import UserError


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTSLEEPER_RUNS", raising=False)
    generate.write(Path("runs"), 25, points=6)
    return Path("runs")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["dashboard", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_it_writes_one_page_beside_the_runs_and_says_where(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["dashboard"]) == 0
    page = runs / "dashboard.html"
    assert re.fullmatch(rf"25 runs of runs, [\d.]+ MB in {page}\n", capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert next(path.parent.name for path in runs.glob("*/*/record.json")) in text


def test_the_page_is_not_taken_for_a_run_and_is_written_again_in_place(runs: Path):
    assert main(["dashboard", "--out", "elsewhere/new/page.html"]) == 0
    assert main(["dashboard", "--out", "elsewhere/new/page.html"]) == 0
    assert [path.name for path in Path("elsewhere/new").iterdir()] == ["page.html"]


def test_figures_lie_in_a_folder_beside_their_tables(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["dashboard", "--format", "svg"]) == 0
    assert (runs / "figures" / "tradeoff.svg").exists()
    assert (runs / "figures" / "tradeoff.csv").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "25 runs of runs"
    assert sorted(printed[1:]) == sorted(str(path) for path in (runs / "figures").iterdir())


def test_filters_and_axes_choose_what_is_drawn(runs: Path):
    arguments = ["--recipe", "words_repcnn", "--x", "size.nonzero", "--y", "test/accuracy", "--out", "figures"]
    assert main(["dashboard", "--format", "csv", *arguments]) == 0
    header, *rows = Path("figures/tradeoff.csv").read_text().splitlines()
    assert "size.nonzero" in header
    assert "test/accuracy" in header
    assert rows
    assert all(",words_repcnn," in line for line in rows)


def test_all_machines_are_mixed_when_asked(runs: Path):
    counts = []
    for machine in ([], ["--machine", "all"], ["--machine", "9c1e77ab0d42"]):
        assert main(["dashboard", "--format", "csv", "--out", "figures", *machine]) == 0
        text = Path("figures/tradeoff.csv").read_text()
        counts.append({name for name in generate.MACHINES if name in text})
    assert [len(names) for names in counts] == [1, 3, 1]
    assert counts[2] == {"9c1e77ab0d42"}


def test_a_sweep_is_chosen_by_name_or_id(runs: Path):
    name = "kws_context_sparsity"
    study = next(study for study in generate.STUDIES if study.startswith(name))
    payloads = [make.Source(runs, sweeps=[given]).payload() for given in (name, study)]
    assert payloads[0]["runs"] == payloads[1]["runs"]
    assert set(payloads[0]["runs"]["sweep"]) == {study}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs-dir", "none"], "no runs under none"),
        (["--recipe", "kws_dps"], "Did you mean 'kws_dsp'?"),
        (["--sweep", "kws_context_sparsty"], "Did you mean 'kws_context_sparsity'?"),
        (["--recipe", "lm_edkm", "--sweep", "kws_context_sparsity"], "no run of recipe lm_edkm in sweep kws_context"),
        (["--x", "latency.p5_ms"], "Did you mean 'latency.p50_ms'?"),
        (["--y", "test/auc"], "no metric 'test/auc' for --y"),
        (["--machine", "other"], "no machine 'other'"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
        (["--format", "png", "--watch"], "--format and --watch do not go together"),
        (["--serve", "--wandb"], "--serve and --wandb do not go together"),
        (["--serve", "0", "--out", "a.html"], "--serve and --out do not go together"),
        (["--format", "csv", "--open"], "--format and --open do not go together"),
        (["--serve", "many"], "invalid int value"),
        (["--serve", "70000"], "0 to 65535"),
        (["--out", "runs"], "runs cannot be written: Is a directory"),
        (["--out", "runs/kws_dsp/file/page.html"], "cannot be written: File exists"),
        (["--project", "kws"], "W&B"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch):
    Path("runs/kws_dsp/file").touch()
    monkeypatch.setenv("HOME", os.getcwd())
    assert message in refused(capsys, *words)


def test_records_that_cannot_be_read_are_named(runs: Path, capsys: pytest.CaptureFixture[str]):
    for place in range(7):
        (runs / "bad" / str(place)).mkdir(parents=True)
        (runs / "bad" / str(place) / "record.json").write_text('{"half":')
    assert main(["dashboard"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("skipped bad/")
    assert lines[-1] == "skipped 2 more"


def test_when_no_record_can_be_read_the_first_is_named(capsys: pytest.CaptureFixture[str]):
    Path("other/bad/1").mkdir(parents=True)
    Path("other/bad/1/record.json").write_text("{")
    assert "1 unreadable records, the first: bad/1/record.json: no complete JSON" in refused(
        capsys, "--runs-dir", "other"
    )


def test_open_shows_the_page_in_the_browser(monkeypatch: pytest.MonkeyPatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert main(["dashboard", "--open"]) == 0
    assert opened == [Path("runs/dashboard.html").resolve().as_uri()]


# --- watch and serve ---


def test_watch_writes_again_only_when_a_record_changes(runs: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    changes = iter([lambda: None, lambda: generate.write(runs, 2, seed=8, points=4), lambda: None, lambda: None])
    monkeypatch.setattr(make.time, "sleep", lambda _: next(changes)())
    make.watch(make.Source(runs), lambda payload: written.append(len(payload["runs"]["id"])), lambda _: None, rounds=4)
    assert written == [25, 27]


def test_watch_goes_on_when_the_runs_are_gone_for_a_while(runs: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    said: list[str] = []
    moves = iter([("runs", "away"), ("away", "away"), ("away", "runs"), ("runs", "runs")])
    monkeypatch.setattr(make.time, "sleep", lambda _: os.replace(*next(moves)))
    make.watch(make.Source(runs), lambda payload: written.append(len(payload["runs"]["id"])), said.append, rounds=4)
    assert written == [25, 25]
    assert [line for line in said if "runs under" in line] == ["no runs under runs. `lightning run RECIPE` makes one."]


@pytest.fixture
def process(runs: Path):
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "lightsleeper", "dashboard", *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.wait()


def test_watching_rewrites_the_page_and_ctrl_c_ends_it(runs: Path, process):
    watcher = process("--watch")
    assert "25 runs" in watcher.stdout.readline()
    page = runs / "dashboard.html"
    content = next(one for one in generate.records(3, seed=77))
    folder = runs / content["recipe"] / "added-run"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**content, "run_id": "added-run"}))
    limit = time.monotonic() + 30
    while "added-run" not in page.read_text() and time.monotonic() < limit:
        time.sleep(0.1)
    assert "added-run" in page.read_text()
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(10) == 0
    assert watcher.stderr.read() == ""


def test_serving_answers_from_the_records_of_now_and_ctrl_c_ends_it(runs: Path, process):
    server = process("--serve", "0")
    server.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", server.stdout.readline())[1])

    def fetch(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    assert len(json.loads(fetch("/payload.json")[1])["runs"]["id"]) == 25
    generate.write(runs, 2, seed=8, points=4)
    assert len(json.loads(fetch("/payload.json")[1])["runs"]["id"]) == 27
    status, text = fetch("/")
    assert status == 200
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert fetch("/kws_dsp")[0] == 404
    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0
    assert server.stderr.read() == ""


def test_a_source_without_runs_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="no runs under"):
        make.Source(tmp_path / "empty").payload()
