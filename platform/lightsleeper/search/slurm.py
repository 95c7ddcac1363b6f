"""`--slurm`: the workers of a sweep as an array of SLURM jobs, through submitit.

Each job is a `lightning sweep` of one worker that joins the study and leaves when no trial is waiting. The nodes share
two things: the database (`--storage`; SQLite over a network file system loses locks) and the runs folder, into which
submitit also writes what the jobs are to do. Benchmarks are left for `--resume` on a machine that is idle.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lightsleeper.errors import UserError
from lightsleeper.search.storage import VARIABLE, asked

if TYPE_CHECKING:
    from lightsleeper.search.local import Request


def parameters(given: list[str]) -> tuple[str | None, dict[str, Any]]:
    """`cluster` and submitit's other parameters from `KEY=VALUE`; raises UserError."""
    from lightsleeper.recipe import parse_value

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise UserError(f"--slurm-set '{text}': expected KEY=VALUE, such as timeout_min=600.")
        found[key] = parse_value(value, text)
    return found.pop("cluster", None), found


def check(request: "Request") -> None:
    """Refuse what cannot work before the study is created; raises UserError."""
    cluster, _ = parameters(request.slurm_set)
    if cluster not in (None, "local", "slurm"):
        raise UserError(f"--slurm-set cluster={cluster}: expected slurm, or local to try it on this machine.")
    if cluster != "local" and asked(request.storage) is None:
        raise UserError(
            f"--slurm: the nodes meet in a database they all reach: --storage postgresql://..., or {VARIABLE}. The runs"
            f" folder ({request.runs_dir}) has to be on a file system they share."
        )
    _submitit()


def submit(request: "Request", console: Console) -> list[Any]:
    """Submit `--workers` jobs as one array; returns submitit's jobs. Raises UserError."""
    from lightsleeper.search import local

    cluster, options = parameters(request.slurm_set)
    folder = request.folder.absolute() / "slurm"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the jobs' pickles hold the URL with its password
    try:
        executor = _submitit().AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name=request.id[:60], **{"timeout_min": 24 * 60, **options})
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"--slurm: {' '.join(str(error).split())}") from error
    url = asked(request.storage)
    runs_dir = request.runs_dir.absolute()
    guest = replace(request, workers=1, slurm=False, guest=True, create=False, storage=url, runs_dir=runs_dir)
    shares = [None] * request.workers if request.count is None else _shares(request.count, request.workers)
    jobs = executor.map_array(local.run, [replace(guest, count=share) for share in shares])
    console.print(f"{len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}; their logs in {folder}", markup=False)
    return jobs


def _shares(count: int, workers: int) -> list[int]:
    """New trials of each job."""
    shares = [count // workers + (index < count % workers) for index in range(workers)]
    return [share for share in shares if share]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--slurm needs submitit (extra slurm): pip install submitit") from None
    return submitit
