"""Who runs which trial: every one exactly once, whoever creates the study and whoever dies."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from lightsleeper.errors import UserError
from lightsleeper.search import claims as claims_module
from lightsleeper.search.claims import Claim, Claims
from lightsleeper.search.storage import open_storage, shown, url_of
from lightsleeper.search.study import BUILDER, READY, Study
from lightsleeper.search.sweep_file import Hyperband
from optuna.storages import RDBStorage
from tiny_sweeps import open_study, settings

LARGE = {"model.width": {"values": list(range(1, 9))}, "data.rows": {"values": [16, 32, 48, 64, 80]}}
UNIFORM = {"model.lr": {"min": 0.0, "max": 1.0}}
fork = multiprocessing.get_context("fork")


def in_processes(count: int, target: Any, *arguments: Any) -> list[Any]:
    """What ``count`` processes return from ``target``, all begun at one moment."""
    start, results = fork.Barrier(count), fork.Queue()

    def child() -> None:
        start.wait()
        results.put(target(*arguments))

    processes = [fork.Process(target=child) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return found


def gone_pid() -> int:
    process = fork.Process(target=os.getpid)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def edit_claims(folder: Path, **values: Any) -> None:
    """As if the claims had been written elsewhere, or earlier."""
    engine = sql.create_engine(url_of(None, folder))
    table = sql.Table("lightsleeper_claims", sql.MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        connection.execute(table.update().where(table.c.trial >= 0).values(**values))


# --- creation ---


def create_and_count(folder: Path) -> int:
    return len(open_study(folder, settings(parameters=LARGE)).rows())


def test_created_by_several_at_once_a_study_has_every_trial_once(tmp_path: Path):
    assert in_processes(4, create_and_count, tmp_path) == [40] * 4
    points = [tuple(row.parameters.items()) for row in open_study(tmp_path, settings(parameters=LARGE)).rows()]
    assert len(set(points)) == 40
    assert points == [tuple(point.items()) for point in settings(parameters=LARGE).file.points()]


def test_a_study_whose_creator_died_half_way_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    enqueued = []

    def die(study: Any, parameters: Any) -> None:
        if len(enqueued) == 3:
            os._exit(9)
        enqueued.append(parameters)
        study.enqueue_trial({}, user_attrs={"parameters": parameters})

    def child() -> None:
        monkeypatch.setattr("lightsleeper.search.study._enqueue", die)
        open_study(tmp_path)

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 9
    rows = open_study(tmp_path).rows()
    assert [row.parameters for row in rows] == list(settings().file.points())


def test_another_sweep_of_the_same_name_is_refused_with_what_differs(tmp_path: Path):
    open_study(tmp_path)
    with pytest.raises(UserError, match="'s-1' exists with other settings: recipe differ"):
        open_study(tmp_path, settings(recipe_hash="other"))
    with pytest.raises(UserError, match="method, run_cap differ"):
        open_study(tmp_path, settings(method="random", run_cap=3))


def test_a_sweep_to_resume_has_to_exist(tmp_path: Path):
    with pytest.raises(UserError, match="no sweep 's-1' in this storage"):
        open_study(tmp_path, create=False)


# --- claims ---


def take_all(folder: Path, all_have_one: Any) -> list[int]:
    """The numbers of the trials that this process takes; it goes on after its first once every process has one."""
    study = open_study(folder, settings(parameters=LARGE))
    mine: list[int] = []
    while taken := study.take(os.getpid()):
        if not mine:
            all_have_one.wait()
        mine.append(taken.number)
        study.finish(taken, [0.5])
    return mine


def test_four_processes_take_every_trial_exactly_once(tmp_path: Path):
    open_study(tmp_path, settings(parameters=LARGE))
    shares = in_processes(4, take_all, tmp_path, fork.Barrier(4))
    assert sorted(number for share in shares for number in share) == list(range(40))
    assert all(shares)


def test_a_running_trial_is_not_taken_again(tmp_path: Path):
    study = open_study(tmp_path)
    numbers = [study.take(os.getpid()).number for _ in range(4)]  # type: ignore[union-attr]
    assert numbers == [0, 1, 2, 3]
    assert study.take(os.getpid()) is None


def test_the_trial_of_a_dead_process_is_taken_over_at_once_with_its_parameters(tmp_path: Path):
    study = open_study(tmp_path, settings(method="bayes", run_cap=2, parameters=UNIFORM))
    first = study.take(gone_pid())
    again = study.take(os.getpid())
    assert first is not None
    assert again is not None
    assert (again.number, again.claim.attempt, again.parameters) == (0, 2, first.parameters)


def test_a_trial_of_another_machine_is_taken_over_only_after_missed_heartbeats(tmp_path: Path):
    study = open_study(tmp_path, settings(run_cap=1))
    study.take(os.getpid())
    edit_claims(tmp_path, machine="elsewhere", pid=1)
    assert study.take(os.getpid()) is None
    edit_claims(tmp_path, beat=datetime.utcnow() - timedelta(seconds=claims_module.GRACE_S + 5))
    again = study.take(os.getpid())
    assert again is not None
    assert again.claim == Claim(0, 2)


def test_a_heartbeat_keeps_a_trial_and_an_owner_learns_that_it_was_overtaken(tmp_path: Path):
    study = open_study(tmp_path, settings(run_cap=1))
    taken = study.take(os.getpid())
    assert taken is not None
    edit_claims(tmp_path, machine="elsewhere", beat=datetime(2020, 1, 1))
    study.beat([taken])
    assert study.take(os.getpid()) is None
    assert not study.overtaken(taken)
    edit_claims(tmp_path, beat=datetime(2020, 1, 1))
    assert study.take(os.getpid()) is not None
    assert study.overtaken(taken)


def test_only_the_first_end_of_a_trial_counts(tmp_path: Path):
    study = open_study(tmp_path, settings(run_cap=1))
    slow = study.take(gone_pid())
    fast = open_study(tmp_path, settings(run_cap=1))
    taken = fast.take(os.getpid())
    assert slow is not None
    assert taken is not None
    fast.finish(taken, [0.25], run="second")
    study.fail(slow, "too late")
    (row,) = study.rows()
    assert (row.state, row.values, row.run, row.error) == ("done", [0.25], "second", None)


def test_a_released_trial_comes_before_new_ones_and_deaths_are_counted(tmp_path: Path):
    study = open_study(tmp_path)
    for died in (True, False, True):
        taken = study.take(os.getpid())
        assert taken is not None
        assert taken.number == 0
        study.release(taken, died)
    again = study.take(os.getpid(), fresh=False)
    assert again is not None
    assert (again.claim, again.deaths) == (Claim(0, 4), 2)
    assert study.take(os.getpid(), fresh=False) is None


# --- a database that is away for a moment ---


@pytest.fixture
def hiccup(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, bool], list[int]]:
    """Have a method's first call fail as the database's, after it was done where ``late``; returns its calls."""
    monkeypatch.setattr("lightsleeper.search.storage.RETRIES_S", (0.0,))

    def once(owner: Any, name: str, late: bool) -> list[int]:
        original, calls = getattr(owner, name), []

        def failing(*arguments: Any, **named: Any) -> Any:
            calls.append(len(calls))
            if late or len(calls) > 1:
                found = original(*arguments, **named)
                if len(calls) > 1:
                    return found
            raise sql.exc.OperationalError("", {}, Exception("server closed the connection"))

        monkeypatch.setattr(owner, name, failing)
        return calls

    return once


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Claims, "insert"), (RDBStorage, "get_trial"), (RDBStorage, "set_trial_state_values"), (Claims, "latest")],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_trial_whose_claim_met_a_hiccup_is_still_this_process(
    tmp_path: Path, hiccup: Callable[..., list[int]], owner: Any, name: str, late: bool
):
    study = open_study(tmp_path)
    calls = hiccup(owner, name, late)
    taken = study.take(os.getpid())
    assert calls
    assert taken is not None
    assert taken.claim == Claim(0, 1)
    study.finish(taken, [0.5])
    assert [row.state for row in study.rows()] == ["done", "waiting", "waiting", "waiting"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["set_study_user_attr", "_create_new_trial"])
def test_a_hiccup_while_the_trials_are_enqueued_neither_hangs_nor_doubles_one(
    tmp_path: Path, hiccup: Callable[..., list[int]], name: str, late: bool
):
    calls = hiccup(RDBStorage, name, late)
    rows = open_study(tmp_path).rows()
    assert calls
    assert [row.parameters for row in rows] == list(settings().file.points())


# --- methods ---


def test_random_draws_are_the_same_for_whoever_enumerates_them(tmp_path: Path):
    wanted = settings(method="random", run_cap=5, parameters=UNIFORM)
    first, second = (open_study(tmp_path / name, wanted).rows() for name in "ab")
    assert [row.parameters for row in first] == [row.parameters for row in second]
    assert len({row.parameters["model.lr"] for row in first}) == 5


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_without_a_cap_trials_go_on_and_differ(tmp_path: Path, method: str):
    study = open_study(tmp_path, settings(method=method, parameters=UNIFORM))
    assert study.rows() == []
    drawn = set()
    for _ in range(4):
        taken = study.take(os.getpid())
        assert taken is not None
        drawn.add(taken.parameters["model.lr"])
        study.finish(taken, [taken.parameters["model.lr"]])
    assert len(drawn) == 4
    assert study.take(os.getpid(), fresh=False) is None


def test_bayes_finds_the_better_end(tmp_path: Path):
    study = open_study(tmp_path, settings(method="bayes", run_cap=40, parameters=UNIFORM))
    values = []
    while taken := study.take(os.getpid()):
        values.append(taken.parameters["model.lr"])
        study.finish(taken, [(values[-1] - 0.9) ** 2])
    late = values[-15:]
    assert sum(abs(value - 0.9) < 0.2 for value in late) >= 10
    assert study.best()[0].values == [min((value - 0.9) ** 2 for value in values)]


def test_a_reached_target_ends_the_sweep(tmp_path: Path):
    study = open_study(tmp_path, settings(target=0.3))
    first = study.take(os.getpid())
    assert first is not None
    study.finish(first, [0.4])
    second = study.take(os.getpid())
    assert second is not None
    study.finish(second, [0.29])
    assert study.take(os.getpid()) is None
    assert study.unfinished() == 2


def test_hyperband_stops_worse_trials(tmp_path: Path):
    rule = Hyperband(min_iter=1, max_iter=None, s=None, eta=2)
    study = open_study(tmp_path, settings(early_terminate=rule, epochs=2, parameters=LARGE))
    stopped = []
    for number in range(8):
        taken = study.take(os.getpid())
        assert taken is not None
        if study.report(taken, 1, 1.0 + number):
            study.prune(taken)
            stopped.append(number)
        else:
            study.finish(taken, [1.0 + number])
    assert stopped  # not all: trials are spread over brackets, of which the second compares later
    assert 0 not in stopped
    assert [row.number for row in study.rows() if row.state == "pruned"] == stopped


def test_of_two_objectives_all_are_best_that_no_other_beats(tmp_path: Path):
    goals: Any = {"val/loss": "minimize", "artifact.bytes": "minimize"}
    study = open_study(tmp_path, settings(method="bayes", run_cap=3, parameters=UNIFORM, objectives=goals))
    for values in ([1.0, 5.0], [2.0, 2.0], [3.0, 4.0]):
        taken = study.take(os.getpid())
        assert taken is not None
        study.finish(taken, values)
    assert sorted(row.number for row in study.best()) == [0, 1]


# --- storage ---


def test_a_missing_driver_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    url = url_of("mysql://me:secret@127.0.0.1/db", tmp_path)
    with pytest.raises(UserError, match="needs pymysql: pip install pymysql") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there_is_one_line_without_the_password(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match="cannot be used") as caught:
        open_storage(url_of("postgresql://me:secret@127.0.0.1:9/db", tmp_path))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shown("postgresql://me:secret@h/db") == "postgresql://me:***@h/db"


def test_nonsense_is_no_url(tmp_path: Path):
    with pytest.raises(UserError, match="expected a URL such as"):
        url_of("my database", tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_storage(url_of(None, tmp_path / "file" / "s"))


def test_a_study_is_ready_only_when_all_trials_are_in(tmp_path: Path):
    study: Study = open_study(tmp_path)
    assert study._study.user_attrs[READY] is True
    assert isinstance(study._claims, Claims)
    assert study._claims.latest()[BUILDER].gone
