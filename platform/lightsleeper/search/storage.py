"""The database of a study: SQLite beside the runs, or any that SQLAlchemy reaches and several machines share."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sql
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.search.claims import Claims
from lightsleeper.tracking.runs import locked

VARIABLE = "LIGHTSLEEPER_STORAGE"
"""The URL from the environment: a command line shows a password to every user of the machine."""
DRIVERS = {
    "postgresql": ("psycopg", " (extra postgres): pip install 'psycopg[binary]'"),
    "mysql": ("pymysql", ": pip install pymysql"),
}
BUSY_S = 60.0  # how long SQLite waits for another process
RETRIES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of a database that is away for a moment

T = TypeVar("T")


def quiet() -> None:
    """Optuna logs every trial, and warns that parts of it may change (the version is ours to watch)."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", message="The reported value is ignored", module="optuna")  # an epoch done again


def asked(given: str | None) -> str | None:
    """`--storage`, else LIGHTSLEEPER_STORAGE."""
    return given or os.environ.get(VARIABLE) or None


def url_of(given: str | None, folder: Path) -> str:
    """The database asked for, else the study's own SQLite file. Raises UserError."""
    text = asked(given)
    if not text:
        return f"sqlite:///{(folder / 'study.sqlite').absolute()}"
    try:
        url = sql.make_url(text)
    except (sql.exc.ArgumentError, ValueError):
        raise UserError("--storage: expected a URL such as postgresql://user:password@host/database.") from None
    if url.drivername in DRIVERS:
        url = url.set(drivername=f"{url.drivername}+{DRIVERS[url.drivername][0]}")
    return url.render_as_string(hide_password=False)


def shown(url: str) -> str:
    """The URL without its password."""
    return sql.make_url(url).render_as_string(hide_password=True)


def open_storage(url: str) -> RDBStorage:
    """Connect, and create what tables are missing. Raises UserError when the database cannot be reached."""
    quiet()
    if not url.startswith("sqlite"):
        return _connected(url, {"pool_pre_ping": True})
    path = Path(sql.make_url(url).database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), wait=True):  # tables are created once
            storage = _connected(url, {"connect_args": {"timeout": BUSY_S}})
            _serialise(storage.engine)
    except OSError as error:
        raise EveryRunError(f"{path.parent} cannot be written: {error.strerror}. --runs-dir names another.") from error
    return storage


def _connected(url: str, arguments: dict[str, Any]) -> RDBStorage:
    def attempt() -> RDBStorage:
        storage = RDBStorage(url, engine_kwargs=arguments)
        Claims(storage.engine, "").create_table()
        return storage

    try:
        for pause_s in (0.3, 0.6, 1.2):
            try:
                return attempt()
            except (sql.exc.IntegrityError, sql.exc.ProgrammingError):  # another machine creates the same tables now
                time.sleep(pause_s)
        return attempt()
    except ImportError as error:
        driver, command = DRIVERS.get(
            sql.make_url(url).get_backend_name(), ("a driver", ": see SQLAlchemy's documentation")
        )
        raise UserError(f"--storage {shown(url)} needs {driver}{command}") from error
    except (sql.exc.SQLAlchemyError, RuntimeError) as error:
        raise UserError(f"storage {shown(url)} cannot be used: {_first_line(error)}") from error


def _serialise(engine: sql.Engine) -> None:
    """Let SQLite do one transaction at a time, and wait for its turn.

    Python's driver begins a transaction at the first write, after what was read: two processes would both see a trial
    waiting, and both take it.
    """
    engine.dispose()  # connections made before do not know

    @sql.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # kept where the file system cannot: SQLite answers with the old mode
        cursor.execute("PRAGMA synchronous=NORMAL")  # safe against kill; a power cut may cost the last trial's entry
        cursor.close()

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def patiently(action: Callable[[], T]) -> T:
    """``action``, again while the database does not answer. Raises EveryRunError when it stays away."""
    for pause_s in (*RETRIES_S, None):
        try:
            return action()
        except (sql.exc.OperationalError, sql.exc.InterfaceError, StorageInternalError) as error:
            if pause_s is None:
                raise EveryRunError(f"the study's storage does not answer: {_first_line(error)}") from error
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = str(getattr(cause, "orig", None) or cause)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
