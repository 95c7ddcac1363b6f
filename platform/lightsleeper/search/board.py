"""What a sweep shows while it runs: a live table on a terminal, one line per event elsewhere."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from lightsleeper.search.study import Row, Study, Taken
from lightsleeper.tracking.page import duration, number

REFRESH_S = 1.0  # counting the trials asks the database
BEST_SHOWN = 12  # rows of the table at the end; `lightning runs` has all


class Busy(Protocol):
    """What the table shows of a worker."""

    name: str
    taken: Taken | None
    began: float


class Board:
    """Tells what happens.

    Example:
        with Board(Console()) as board:
            board.say("2 workers")
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._progress: dict[str, str] = {}
        self._seconds: list[float] = []
        self._shown = 0.0

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: RenderableType) -> None:
        """One line, or a table, above the live one."""
        self.console.print(text, markup=False) if isinstance(text, str) else self.console.print(text)

    def began(self, worker: str, taken: Taken) -> None:
        again = f", attempt {taken.claim.attempt}" if taken.claim.attempt > 1 else ""
        self._progress.pop(worker, None)
        self.say(f"trial {taken.number} begins on {worker}{again}: {settings(taken.parameters)}")

    def validated(self, worker: str, validation: int, value: float) -> None:
        self._progress[worker] = f"validation {validation}: {number(value)}"

    def ended(self, worker: str, taken: Taken, outcome: str, seconds: float | None) -> None:
        self._progress.pop(worker, None)
        if seconds is not None:
            self._seconds.append(seconds)
        took = f" ({duration(seconds)})" if seconds is not None else ""
        self.say(f"trial {taken.number} {outcome}{took}")

    def show(self, study: Study, busy: Sequence[Busy], workers: int) -> None:
        """Draw the live table, about once a second."""
        if self._live is None or time.monotonic() - self._shown < REFRESH_S:
            return
        self._shown = time.monotonic()
        rows = study.rows()
        table = Table(box=box.SIMPLE, show_header=False)
        for worker in busy:
            assert worker.taken is not None
            told = self._progress.get(worker.name, "")
            spent = duration(time.monotonic() - worker.began)
            table.add_row(
                *map(
                    escape,
                    (worker.name, f"trial {worker.taken.number}", settings(worker.taken.parameters), told, spent),
                )
            )
        lines = [counts(rows)]
        if left := self.time_left(rows, workers):
            lines[0] += f"; about {left} left"
        best = study.best()
        if len(best) == 1:
            lines.append(f"best so far: {outcome(best[0], study)} with {settings(best[0].parameters)}")
        elif best:
            lines.append(f"best so far: {len(best)} trials that no other beats in everything")
        self._live.update(Group(table, *(escape(line) for line in lines)))

    def time_left(self, rows: Iterable[Row], workers: int) -> str:
        """What is left, as if it took as long as what this process has seen; empty before the first trial ended."""
        left = sum(row.state in ("waiting", "running") for row in rows)
        if not self._seconds or not left:
            return ""
        seconds = statistics.mean(self._seconds) * -(-left // workers)
        return str(timedelta(seconds=round(seconds)))


def counts(rows: Sequence[Row]) -> str:
    """`12 trials: 7 done, 1 failed, 2 running, 2 waiting`."""
    found = Counter(row.state for row in rows)
    parts = [f"{found[state]} {name}" for state, name in NAMES.items() if found[state]]
    return f"{len(rows)} trials: {', '.join(parts) or 'none yet'}"


NAMES: dict[Any, str] = {
    "done": "done",
    "pruned": "stopped early",
    "failed": "failed",
    "running": "running",
    "waiting": "waiting",
}


def settings(parameters: dict[str, Any]) -> str:
    """`model.past_frames=16 callbacks.prune.sparsity=0.8`."""
    return " ".join(f"{name}={number(value)}" for name, value in parameters.items())


def outcome(row: Row, study: Study) -> str:
    """Values of a trial, or what became of it."""
    if row.values and row.state == "done":
        names = list(study.settings.objectives) or [study.settings.file.metric]
        return "  ".join(f"{name} {number(value)}" for name, value in zip(names, row.values, strict=True))
    return row.error or NAMES[row.state]


def table(study: Study) -> Table:
    """Every trial, or of many the best and those that failed."""
    goal = study.settings.directions[0]
    sign = 1 if goal == "minimize" else -1

    def order(row: Row) -> tuple[bool, float, int]:
        done = row.state == "done" and bool(row.values)  # one stopped early has the last value it was judged by
        return not done, sign * row.values[0] if done and row.values else 0.0, row.number

    rows = sorted(study.rows(), key=order)
    shown = rows
    if len(rows) > 2 * BEST_SHOWN:
        shown = [*rows[:BEST_SHOWN], *(row for row in rows[BEST_SHOWN:] if row.error)][: 2 * BEST_SHOWN]
    found = Table(box=box.SIMPLE_HEAD)
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    for title in ("trial", *names, "result", "time", "run"):
        found.add_column(escape(title), overflow="fold")
    for row in shown:
        values = [number(row.parameters[name]) if name in row.parameters else "" for name in names]
        took = duration(row.seconds) if row.seconds is not None else ""
        cells = (str(row.number), *values, outcome(row, study), took, row.run or "")
        found.add_row(*(escape(str(cell)) for cell in cells))
    if len(shown) < len(rows):
        found.caption = f"and {len(rows) - len(shown)} more"
    return found
