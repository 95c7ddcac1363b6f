"""A sweep run by W&B: registered there, its trials handed to agents, which are W&B's own program.

An agent starts `lightning run` for each trial in a process group of its own and passes Ctrl-C on as it sees fit: the
first lets running trials end, the second stops them (SIGTERM), the third kills. We pass ours on to the agents. When
they are done, the exported models of this machine's trials are timed, one at a time.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lightsleeper.errors import UserError
from lightsleeper.search import deferred
from lightsleeper.search.folder import folder_of
from lightsleeper.search.sweep_file import SweepFile
from lightsleeper.search.team import environment, threads_each
from lightsleeper.tracking.credentials import key_source
from lightsleeper.tracking.runs import scan

POLL_S = 0.2


def run_agents(sweep: SweepFile, agents: int, count: int | None, runs_dir: Path) -> int:
    """Register ``sweep`` with W&B, print its link and run ``agents`` agents until it is done; returns the exit code.

    ``count`` limits the trials of all agents together. Raises UserError without a key or when W&B cannot be reached.
    """
    refuse_offline()
    if agents < 1:
        raise UserError(f"--agents: expected at least 1, got {agents}.")
    path = register(sweep)
    import torch

    from lightsleeper.stages.sweep import AGENT_ENTRY

    told = {
        "name": sweep.name,
        "method": sweep.method,
        "metric": sweep.metric,
        "goal": sweep.goal,
        "defer": [deferred.STAGE],
    }
    shares = split(count, agents)
    here = {
        AGENT_ENTRY: json.dumps(told),
        "LIGHTSLEEPER_RUNS": str(runs_dir.absolute()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # has our `lightning`
    }
    devices = torch.cuda.device_count() if len(shares) > 1 else 0
    folder = folder_of(runs_dir, path.rpartition("/")[2])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(shares)} agent(s) with {threads_each(len(shares))} thread(s) each; what they say: {folder}")
    print(f"more of them, here or on other machines: wandb agent {path}")
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for index, share in enumerate(shares, 1):
            log = stack.enter_context((folder / f"agent-{os.getpid()}-{index}.log").open("ab"))
            command = [sys.executable, "-m", "wandb", "agent", *(["--count", str(share)] if share else []), path]
            # A group of its own: a terminal's Ctrl-C reaches us alone, and each agent once, from us.
            environ = environment(index - 1, len(shares), devices) | here
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, process_group=0)
            processes.append(process)
        code = wait(processes)
    waiting = pending(runs_dir, path.rpartition("/")[2])
    if code == 130:
        later = f"; {len(waiting)} models are not timed, `lightning run --resume RUN` does it" if waiting else ""
        print(f"the agents have ended; the sweep stays at W&B{later}.")
        return code
    with (folder / "benchmarks.log").open("ab") as log:
        for number, run in enumerate(waiting, 1):
            print(f"benchmark {number}/{len(waiting)}: {run.name}", flush=True)
            command = [sys.executable, "-m", "lightsleeper", "run", "--resume", str(run), "--runs-dir", str(runs_dir)]
            code = max(code, min(1, subprocess.run(command, stdout=log, stderr=log).returncode))
    return code


def pending(runs_dir: Path, sweep: str) -> list[Path]:
    """Folders of the sweep's runs, and of the steps they required, whose exported model is not timed yet."""
    trials = [run.folder for run in scan(runs_dir)[0] if run.record.sweep.get("id") == sweep]
    return deferred.waiting(trials, runs_dir)


def refuse_offline() -> None:
    """Raise UserError where W&B's server cannot be asked."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "dryrun", "disabled"):
        raise UserError(f"WANDB_MODE is {mode}, and W&B's agents need its server; --local runs the sweep without.")
    if key_source() is None:
        raise UserError("no W&B key (`wandb login`, or WANDB_API_KEY); --local runs the sweep without.")


def register(sweep: SweepFile) -> str:
    """Create the sweep at W&B and print its link; returns entity/project/id. Raises UserError."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = sweep.recipe({}).config.get("tracking") or {}
    project = sweep.text.get("project") or settings.get("project") or "lightsleeper"
    entity = sweep.text.get("entity") or settings.get("entity")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what follows in words of its own
            name = wandb.sweep(sweep.text, entity=entity, project=project)
        site = wandb.setup().settings.app_url
    except Exception as error:  # of many kinds: no network, a wrong key, a project that is not yours
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"W&B did not take the sweep: {reason[:200]}; --local runs it without.") from error
    # where W&B filed it, as it has told the process
    entity, project = os.environ.get("WANDB_ENTITY", entity), os.environ.get("WANDB_PROJECT", project)
    print(f"sweep {name}: {site}/{entity}/{project}/sweeps/{name}", flush=True)
    return f"{entity}/{project}/{name}"


def split(count: int | None, agents: int) -> list[int | None]:
    """How many trials each agent may start; agents without any are left out."""
    if count is None:
        return [None] * agents
    return [share for share in (count // agents + (index < count % agents) for index in range(agents)) if share]


def wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Until every agent has ended; 0, 1 when one failed, 130 when stopped by a signal."""
    with signals() as caught:
        told = 0
        while any(process.poll() is None for process in processes):
            if len(caught) > told:
                told += 1
                _pass_on(processes, twice=caught[told - 1] == signal.SIGTERM)
            time.sleep(POLL_S)
    if caught:
        return 130
    return 1 if any(process.returncode for process in processes) else 0


def _pass_on(processes: list[subprocess.Popen[bytes]], twice: bool) -> None:
    """Tell agents what a user's Ctrl-C means to them; SIGTERM, after which nobody waits, does not let trials end."""
    for _ in range(2 if twice else 1):
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        time.sleep(1.0 if twice else 0)  # two signals at once would reach an agent as one
    print("stopping trials." if twice else "waiting for running trials to end; Ctrl-C again stops them.", flush=True)


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """A list that fills with the SIGINT and SIGTERM that arrive, which then do nothing else."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: caught.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
