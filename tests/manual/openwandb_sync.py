"""By hand: log a run to, and upload a whole local sweep to, an independent server of W&B's run protocol.

`openwandb` is on PyPI under a non-commercial licence: install it apart from this project, and only if that suits you.

    python -m venv openwandb && openwandb/bin/pip install openwandb
    python tests/manual/openwandb_sync.py openwandb/bin/openwandb
"""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

KEY = "local" + 35 * "0"  # the server prints it as the key of its first user
SWEEP = """\
program: tiny.yaml
command: [lightning, run, "${program}", "--run.stages=[fit, finalize, test, export]", "${args}"]
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  model.width: {values: [4, 6]}
  seed_everything: {values: [1, 2]}
"""


def main(program: str) -> None:
    from tiny_family import tiny_recipe

    program = str(Path(program).resolve())
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        os.chdir(folder)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        recipe = tiny_recipe(Path.cwd())
        recipe.write_text(recipe.read_text().replace("mode: disabled", "project: tiny"))
        Path("sweep.yaml").write_text(SWEEP)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        command = [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", "server"]
        with Path("server.log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            offline = {"WANDB_MODE": "offline"}
            online = {"WANDB_MODE": "online", "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
            lightning("sweep", "sweep.yaml", "--local", "--workers", "2", **offline)
            lightning("run", "tiny.yaml", "--run.stages=[fit,finalize,test]", "--seed_everything=9", **online)
            logs = sorted(Path("runs/tiny").glob("*/wandb/offline-run-*"))
            print(f"\n{len(logs)} offline logs to upload", flush=True)
            run([sys.executable, "-m", "wandb", "sync", *map(str, logs)], online)
            report(len(logs))
        finally:
            server.terminate()
            server.wait()


def wait_for(url: str) -> None:
    for _ in range(600):
        with suppress(OSError):
            urllib.request.urlopen(url)
            return
        time.sleep(0.1)
    raise SystemExit(f"no server at {url}: {Path('server.log').read_text()[-2000:]}")


def run(command: list[str], environ: dict[str, str]) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, env={**os.environ, **environ}, check=True)


def lightning(*words: str, **environ: str) -> None:
    run([sys.executable, "-m", "lightsleeper", *words], environ)


def report(uploaded: int) -> None:
    """What the server has in its database, compared with the run records. It knows no groups."""
    from lightsleeper.tracking.runs import scan

    [database] = [file for file in Path("server").rglob("*") if is_sqlite(file)]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        runs = {row[0]: row[1:] for row in connection.execute("SELECT run_id, state, summary_json FROM runs")}
        query = "SELECT count(*) FROM metrics WHERE run_id = ? AND key = 'val/loss'"
        epochs = {run: connection.execute(query, (run,)).fetchone()[0] for run in runs}
    records = [found.record for found in scan(Path("runs"))[0]]
    assert sorted(runs) == sorted(record.tracking["id"] for record in records)
    assert len(runs) == uploaded + 1
    for record in records:
        run = record.tracking["id"]
        state, stored = runs[run][0], json.loads(runs[run][1])["test/accuracy"]
        how = "online" if record.tracking["mode"] == "online" else f"offline, group {record.tracking['group']}"
        print(f"{run}  {state}  {epochs[run]} epochs  test/accuracy {stored:.4f}  {how}")
        assert (state, epochs[run]) == ("finished", 4)
        assert abs(stored - record.metrics["test/accuracy"]["value"]) < 1e-9
    groups = {record.tracking["group"] for record in records if record.tracking["mode"] == "offline"}
    assert len(groups) == 1, groups
    print(f"{uploaded} trials uploaded, of one group; 1 run logged online; all as in their records")


def is_sqlite(file: Path) -> bool:
    with suppress(OSError):
        return file.read_bytes()[:15] == b"SQLite format 3"
    return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
