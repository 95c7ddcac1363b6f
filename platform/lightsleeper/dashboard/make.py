"""From a runs folder to a payload, a page on disk, and again when records change."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightsleeper.dashboard import index, remote
from lightsleeper.dashboard.payload import build
from lightsleeper.dashboard.rows import TABLE
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import write_atomic

PAGE = "dashboard.html"
EVERY_S = 2.0
ALIVE_S = 60.0  # a run that died leaves its record as it was: statuses are looked at again


@dataclass
class Source:
    """Where runs come from and which are shown."""

    root: Path
    recipes: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    """Ids or names."""
    project: str | None = None
    """W&B ENTITY/PROJECT whose runs are shown too."""
    x: str | None = None
    y: str | None = None
    machine: str | None = None
    """Fingerprint whose latencies are shown first; `all` mixes machines; None is the most frequent one."""
    _remote: list[dict[str, Any]] | None = field(default=None, repr=False)

    def table(self) -> pa.Table:
        """All records, those of W&B after those of this machine; a run that is here too is taken from here."""
        local = index.load(self.root)
        if self.project is None:
            return local
        if self._remote is None:
            self._remote = remote.rows(remote.connect(), self.project)
        here = set(local["tracking_id"].to_pylist())
        rows = [row for row in self._remote if row.get("tracking_id") not in here or row.get("reason")]
        return pa.concat_tables([local, pa.Table.from_pylist(rows, TABLE)])

    def payload(self, table: pa.Table | None = None) -> dict[str, Any]:
        """Raises UserError when there is nothing to show, or for a name that no run has."""
        table = self.table() if table is None else table
        if not pc.any(pc.is_null(table["reason"])).as_py():
            unread = table["reason"].to_pylist()
            found = (
                f"{len(unread)} unreadable records, the first: {table['path'][0]}: {unread[0]}" if unread else "no runs"
            )
            raise UserError(f"{found} under {self.root}." + ("" if unread else " `lightning run RECIPE` makes one."))
        payload = build(table, self.project or str(self.root), keep=self._keep)
        if not payload["runs"]["id"]:
            raise UserError(f"no run of recipe {', '.join(self.recipes)} in sweep {', '.join(self.sweeps)}.")
        self._choose(payload)
        return payload

    def _keep(self, runs: pa.Table) -> np.ndarray:
        keep = np.ones(len(runs), dtype=bool)
        for names, columns, what in (
            (self.recipes, ("recipe",), "recipe"),
            (self.sweeps, ("sweep_id", "sweep_name"), "sweep"),
        ):
            if not names:
                continue
            found = [runs[column].to_pylist() for column in columns]
            known = {value for values in found for value in values if value}
            for name in names:
                if name not in known:
                    none = "" if known else f" No run under {self.root} belongs to a {what}."
                    raise UserError(f"no run of {what} '{name}'.{did_you_mean(name, known)}{none}")
            keep &= np.array([any(value in names for value in values) for values in zip(*found, strict=True)])
        return keep

    def _choose(self, payload: dict[str, Any]) -> None:
        defaults = next(view["defaults"] for view in payload["views"] if view["id"] == "tradeoff")
        for axis, name in (("x", self.x), ("y", self.y)):
            if name is not None and name not in payload["metrics"]:
                raise UserError(f"no metric '{name}' for --{axis}.{did_you_mean(name, payload['metrics'])}")
            defaults[axis] = name or defaults[axis]
        if self.machine is not None:
            if self.machine not in ("all", *payload["machines"]):
                raise UserError(
                    f"no machine '{self.machine}'.{did_you_mean(self.machine, ['all', *payload['machines']])}"
                )
            defaults["machine"] = None if self.machine == "all" else self.machine


def page(payload: dict[str, Any]) -> str:
    """The HTML page."""
    from lightsleeper.dashboard.page.render import render

    return render(payload)


def write_page(payload: dict[str, Any], path: Path) -> None:
    """Replace ``path`` whole; raises UserError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page(payload))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


class Live:
    """A source whose payload is built again only when records change; safe to ask from several threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._keys: Any = None
        self._built = 0.0
        self._payload: dict[str, Any] = {}
        self._page = ""

    def look(self) -> tuple[dict[str, Any], bool]:
        """(payload, whether it is a new one); raises UserError as `Source.payload`."""
        with self._lock:
            table = self._source.table()
            keys = table["key"].combine_chunks()
            waiting = pc.any(pc.equal(table["status"], "running")).as_py()
            same = self._keys is not None and keys.equals(self._keys)
            if same and not (waiting and time.monotonic() - self._built > ALIVE_S):
                return self._payload, False
            self._payload, self._page = self._source.payload(table), ""
            self._keys, self._built = keys, time.monotonic()
            return self._payload, True

    def page(self) -> str:
        payload, _ = self.look()
        if not self._page:
            self._page = page(payload)
        return self._page


def watch(
    source: Source, write: Callable[[dict[str, Any]], None], say: Callable[[str], None], rounds: int | None = None
) -> None:
    """Call ``write`` whenever records change, for ever or ``rounds`` times; a folder in trouble is told, not fatal."""
    live = Live(source)
    told = ""
    for _ in itertools.count() if rounds is None else range(rounds):
        try:
            payload, new = live.look()
            if new or told:
                write(payload)
                say(f"{time.strftime('%H:%M:%S')} {len(payload['runs']['id'])} runs")
            told = ""
        except UserError as error:
            if told != str(error):
                told = str(error)
                say(told)
        time.sleep(EVERY_S)
