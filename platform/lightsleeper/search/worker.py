"""One worker of a sweep: a process that runs the trials it is given, one after the other, in one interpreter.

`python -m lightsleeper.search.worker LOG` reads jobs from standard input and writes events to standard output, one JSON
object a line. It knows neither the study nor its database: the parent decides, the run folder remembers. What a trial
prints goes to LOG. When the input ends, the parent wants no more or is gone, and nobody would note how a trial ends:
the worker stops it as Ctrl-C would, so that it can be resumed, and ends itself.
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.run_folder import RECORD
from lightsleeper.search.objectives import measure
from lightsleeper.tracking.record import Record, read, status_of

LEAVE_S = 45.0  # less than claims.GRACE_S: another machine must not meet a worker that is still stopping
WAIT_S = 0.5  # between two looks at a run that somebody else still seems to write
AGAIN_S = 15.0  # Python swallows an exception that a signal raises inside a finaliser

Job = dict[str, Any]


def main(log: Path) -> int:
    """Serve the parent until our input ends."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which tells us
    link = Link(sys.stdin, events)
    try:
        _import()
        link.send("ready")
        while (job := link.receive()) is not None:
            _do(job, link)
    except KeyboardInterrupt:
        link.send("stopped")
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _import() -> None:
    """The seconds that torch takes, before the first trial rather than in it."""
    import torch

    from lightsleeper import experiment  # noqa: F401

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


class Link:
    """Lines from and to the parent."""

    def __init__(self, incoming: TextIO, outgoing: TextIO) -> None:
        self._outgoing = outgoing
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self.busy = self.gone = False
        threading.Thread(target=self._read, args=(incoming,), name="jobs", daemon=True).start()

    def send(self, event: str, **facts: Any) -> None:
        with suppress(BrokenPipeError, ValueError):  # the parent is gone; the reading thread has seen it too
            self._outgoing.write(json.dumps({"event": event, **facts}) + "\n")

    def receive(self) -> Job | None:
        """The next job or answer; None when there will be none."""
        return self._jobs.get()

    def _read(self, incoming: TextIO) -> None:
        for line in incoming:
            self._jobs.put(json.loads(line))
        self._jobs.put(None)
        self.gone = True
        until = time.monotonic() + LEAVE_S
        again = 0.0
        while self.busy:
            if time.monotonic() > until:
                os._exit(1)
            if time.monotonic() > again:
                os.kill(os.getpid(), signal.SIGTERM)
                again = time.monotonic() + AGAIN_S
            time.sleep(0.05)


def _do(job: Job, link: Link) -> None:
    """One job; whatever happens to it is told, and only a stop goes on upwards."""
    began = time.monotonic()
    link.busy = True
    try:
        if link.gone:
            raise KeyboardInterrupt
        found = {"trial": _trial, "benchmark": _benchmark}[job["do"]](job, link)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
        link.send("failed", error=text, everywhere=isinstance(error, EveryRunError), run=_run_id(job))
    else:
        link.send("done", seconds=time.monotonic() - began, **found)
    finally:
        link.busy = False
        gc.collect()  # a trainer and its model refer to each other


def _trial(job: Job, link: Link) -> dict[str, Any]:
    from lightsleeper import experiment, recipe
    from lightsleeper.stages.sweep import SweepTrial

    def judge(validation: int, value: float, competes: bool) -> bool:
        link.send("validation", validation=validation, value=value, competes=competes)
        if not (job["prune"] and competes):
            return False
        answer = link.receive()
        if answer is None:  # the parent is gone: the signal that says so is on its way
            time.sleep(LEAVE_S)
            return False
        return bool(answer["stop"])

    runs_dir = Path(job["runs_dir"])
    entry = {**job["entry"], "value": None, "pruned": False}
    folder = None
    if entry["attempt"] > 1:
        folder = find_trial(runs_dir, job["recipe"], entry["id"], entry["trial"])
    if folder is not None:
        record = _left(folder)
        if record.status == "failed" and not job["stopped"]:  # and the parent died before it could note so
            raise UserError(record.error or "failed")
        if record.status == "finished":
            return _result(folder, record, job)
        entry = {key: value for key, value in entry.items() if key not in ("value", "pruned")}
    sweep = SweepTrial(entry, frozenset(job["defer"]), judge)
    merged = recipe.load(job["files"], job["overrides"])
    folder = experiment.run(merged, runs_dir, folder, sweep)
    return _result(folder, read(folder), job)


def _left(folder: Path) -> Record:
    """The record once nobody writes it; by a dead machine's clock that may be later than by the database's."""
    told = False
    while status_of(record := read(folder)) == "running":
        if not told:
            print(f"{folder.name} is still being written; waiting for that to end", flush=True)
            told = True
        time.sleep(WAIT_S)
    return record


def find_trial(runs_dir: Path, recipe: str, sweep: str, trial: int) -> Path | None:
    """The run folder of a trial that an earlier worker has begun; the newest, should there be several."""
    for path in sorted((runs_dir / recipe).glob(f"*/{RECORD}"), reverse=True):
        try:
            entry = read(path).sweep
        except UserError:
            continue
        if entry.get("id") == sweep and entry.get("trial") == trial:
            return path.parent
    return None


def _result(folder: Path, record: Record, job: Job) -> dict[str, Any]:
    pruned = bool(record.sweep.get("pruned"))
    values = [] if pruned else [measure(record, folder, name) for name in job["objectives"]]
    return {"run": folder.name, "pruned": pruned, "values": values}


def _run_id(job: Job) -> str | None:
    if job["do"] != "trial":
        return None
    folder = find_trial(Path(job["runs_dir"]), job["recipe"], job["entry"]["id"], job["entry"]["trial"])
    return folder.name if folder else None


def _benchmark(job: Job, link: Link) -> dict[str, Any]:
    """What the trials have deferred, of one run."""
    from lightsleeper import experiment

    experiment.run(None, Path(job["runs_dir"]), Path(job["folder"]))
    return {"run": Path(job["folder"]).name}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
