"""Who runs which trial: one table beside Optuna's in the same database, in which a trial is claimed by an insert.

The primary key (study, trial, attempt) makes a claim exclusive on any database, whatever its isolation. A trial is
taken over by inserting the next attempt, once the owner of the last one is gone: at once where its process was of this
machine, else after GRACE_S without a heartbeat. An owner that was only slow learns from `overtaken` that it has lost.

Optuna's own heartbeat fails a dead trial and adds a copy under another number, in two transactions: killed between
them, the trial is gone. Here a trial keeps its number, and an attempt more is all that a death leaves.
"""

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql

from lightsleeper.tracking.record import STALE_S, alive, birth

BEAT_S = 10.0
GRACE_S = STALE_S + 3 * BEAT_S  # the run's record, which beats by itself, has to count as dead before its trial does

Ended = Literal["done", "stopped", "died"]
"""done: the trial ended; stopped: by the user, to be resumed; died: the parent saw its worker die."""


@dataclass(frozen=True)
class Claim:
    """One attempt at one trial."""

    trial: int
    attempt: int
    """1 for the first."""


@dataclass(frozen=True)
class Latest:
    attempt: int
    gone: bool
    """Whether another may take the trial over."""
    ended: Ended | None
    deaths: int


def machine() -> str:
    """Where process ids mean the same: host, boot, and pid namespace (two containers may share a host's name)."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


class Claims:
    """The claims of one study.

    Example:
        claims = Claims(engine, "kws-1")
        if claims.insert(claim := Claim(trial=3, attempt=1), pid): ...
    """

    def __init__(self, engine: sql.Engine, study: str) -> None:
        self._engine, self._study = engine, study
        self._here = machine()
        self._table = sql.Table(
            "lightsleeper_claims",
            sql.MetaData(),
            sql.Column("study", sql.String(255), primary_key=True),
            sql.Column("trial", sql.Integer, primary_key=True, autoincrement=False),
            sql.Column("attempt", sql.Integer, primary_key=True, autoincrement=False),
            sql.Column("machine", sql.String(255), nullable=False),
            sql.Column("pid", sql.Integer, nullable=False),
            sql.Column("birth", sql.String(32)),
            sql.Column("beat", sql.DateTime, nullable=False),  # by the clock of the database, the only common one
            sql.Column("ended", sql.String(16)),
        )

    def create_table(self) -> None:
        self._table.metadata.create_all(self._engine)

    def insert(self, claim: Claim, pid: int) -> bool:
        """Claim for process ``pid`` of this machine; False when somebody else was first.

        True again for a claim that it holds already: the database may have written it and failed to say so.
        """
        row = {"trial": claim.trial, "attempt": claim.attempt, "machine": self._here, "pid": pid, "birth": birth(pid)}
        try:
            with self._engine.begin() as connection:
                connection.execute(self._table.insert().values(study=self._study, beat=sql.func.now(), **row))
        except sql.exc.IntegrityError:
            return self._holds(row)
        return True

    def _holds(self, row: dict[str, Any]) -> bool:
        same = [self._table.c[name] == value for name, value in row.items()]
        query = sql.select(self._table.c.trial).where(self._table.c.study == self._study, *same)
        with self._engine.begin() as connection:
            return connection.execute(query).first() is not None

    def latest(self) -> dict[int, Latest]:
        """The last attempt at each trial that was ever claimed."""
        with self._engine.begin() as connection:
            now = connection.execute(sql.select(sql.func.now())).scalar_one().replace(tzinfo=None)
            query = sql.select(self._table).where(self._table.c.study == self._study).order_by(self._table.c.attempt)
            rows = connection.execute(query).all()
        found: dict[int, Latest] = {}
        for row in rows:
            before = found.get(row.trial)
            deaths = (before.deaths if before else 0) + (row.ended == "died")
            found[row.trial] = Latest(row.attempt, self._gone(row, now), row.ended, deaths)
        return found

    def _gone(self, row: Any, now: Any) -> bool:
        if row.ended is not None:
            return True
        if row.machine == self._here:
            return not alive(row.pid, row.birth)
        return now - row.beat > timedelta(seconds=GRACE_S)

    def on_this_machine(self) -> int:
        """How many processes of this machine, whosever workers they are, hold a claim."""
        query = sql.select(self._table).where(self._table.c.study == self._study, self._table.c.ended.is_(None))
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
        return len({row.pid for row in rows if row.machine == self._here and alive(row.pid, row.birth)})

    def beat(self, claims: Iterable[Claim]) -> None:
        with self._engine.begin() as connection:
            for claim in claims:
                connection.execute(self._update(claim).values(beat=sql.func.now()))

    def end(self, claim: Claim, how: Ended) -> None:
        with self._engine.begin() as connection:
            connection.execute(self._update(claim).values(ended=how))

    def overtaken(self, claim: Claim) -> bool:
        """Whether somebody has taken the trial over."""
        table = self._table
        query = sql.select(sql.func.max(table.c.attempt)).where(
            table.c.study == self._study, table.c.trial == claim.trial
        )
        with self._engine.begin() as connection:
            return bool(connection.execute(query).scalar_one() > claim.attempt)

    def _update(self, claim: Claim) -> sql.Update:
        table = self._table
        return table.update().where(
            table.c.study == self._study, table.c.trial == claim.trial, table.c.attempt == claim.attempt
        )
