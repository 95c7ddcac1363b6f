"""By hand: log a run to, and upload a whole local sweep to, an independent server of W&B's run protocol.

`openwandb` is on PyPI under a non-commercial licence: install it apart from this project, and only if that suits you.

    python -m venv openwandb && openwandb/bin/pip install openwandb
    python tests/manual/openwandb_sync.py openwandb/bin/openwandb
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

KEY = "local" + 35 * "0"  # the server prints it as the key of its first user
SWEEP = """\
program: tiny.yaml
command: [lightning, run, "${program}", "${args}"]
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
            lightning("run", "tiny.yaml", "--seed_everything=9", **online)
            logs = sorted(Path("runs/tiny").glob("*/wandb/offline-run-*"))
            print(f"\n{len(logs)} offline logs to upload", flush=True)
            run([sys.executable, "-m", "wandb", "sync", *map(str, logs)], online)
            report(online, len(logs))
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


def report(environ: dict[str, str], uploaded: int) -> None:
    """What the server has, asked through W&B's own client and compared with the run records."""
    from lightsleeper.tracking.runs import scan

    os.environ.update(environ)
    import wandb

    api = wandb.Api()
    runs = {run.id: run for run in api.runs(f"{api.default_entity}/tiny")}
    records = [found.record for found in scan(Path("runs"))[0]]
    assert len(runs) == len(records) == uploaded + 1, (sorted(runs), [record.run_id for record in records])
    for record in records:
        run = runs[record.tracking["id"]]
        rows = list(run.scan_history())
        epochs = sum(row.get("val/loss") is not None for row in rows)
        value, stored = record.metrics["test/accuracy"]["value"], run.summary.get("test/accuracy")
        print(
            f"{run.id}  group {run.group}  {run.state}  {len(rows)} rows, {epochs} epochs  test/accuracy {stored:.4f}"
        )
        assert (epochs, run.group) == (4, record.tracking["group"])
        assert abs(stored - value) < 1e-9
    groups = Counter(run.group for run in runs.values())
    print(f"groups: {dict(groups)}")
    assert max(groups.values()) == uploaded  # the sweep is one of them


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
