"""The parent's side of its workers: start, give jobs, hear events, see them die."""

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from lightsleeper.search.study import Taken

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Event = dict[str, Any]


def threads_each(workers: int, environ: Mapping[str, str] = os.environ) -> int:
    """CPU threads of one worker: what the user has set for a process, else an equal share of this process' cores."""
    if given := environ.get("OMP_NUM_THREADS", ""):
        return int(given.split(",")[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def environment(index: int, workers: int, devices: int = 0) -> dict[str, str]:
    """Variables of worker ``index``: threads, import path, and one GPU of ``devices`` where there are several."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    found = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    found.update(dict.fromkeys(THREAD_VARIABLES, str(threads_each(workers))))
    if devices > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if len(visible) == devices else [str(device) for device in range(devices)]
        found["CUDA_VISIBLE_DEVICES"] = names[index % devices]
    return found


class Worker:
    """One worker process."""

    def __init__(self, name: str, log: Path, environ: Mapping[str, str], events: "queue.Queue[tuple[Worker, Event]]"):
        self.name, self.log = name, log
        self.ready = False
        self.taken: Taken | None = None
        self.began = 0.0
        """When its trial was given to it."""
        self.process = Popen(
            [sys.executable, "-m", "lightsleeper.search.worker", str(log)],
            stdin=PIPE,
            stdout=PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
            env=dict(environ),
        )
        self._reader = threading.Thread(target=self._read, args=(events,), name=f"events of {name}", daemon=True)
        self._reader.start()

    def _read(self, events: "queue.Queue[tuple[Worker, Event]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                events.put((self, json.loads(line)))
            except ValueError:  # the last line of a killed process
                return

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, job: Event) -> None:
        """Give a job or an answer; a dead worker is noticed elsewhere."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()

    def dead(self) -> bool:
        """Whether it has ended; then every event it sent is in the queue."""
        if self.process.poll() is None:
            return False
        self._reader.join(2.0)  # not for ever: its data workers may hold the pipe for a while
        return True

    def stop(self) -> None:
        """No more jobs: it ends, at once when it is idle, else after having stopped its trial cleanly."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def epitaph(self) -> str:
        """How it died, with the last line of its log."""
        code = self.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        how += " (out of memory?)" if code == -9 else ""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return f"{how}; {self.log} ends with: {lines[-1]}" if lines else how
