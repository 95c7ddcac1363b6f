import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_prefill as tiny
import torch
from lightsleeper.errors import UserError
from lightsleeper.generation.ranks import Ranks
from lightsleeper.generation.sharing import share
from lightsleeper.generation.transport import RankLostError


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def killed_after(pid: int, seconds: float, sign: int = signal.SIGKILL) -> None:
    threading.Timer(seconds, os.kill, (pid, sign)).start()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_run_with_one_error_within_ten_seconds(victim):
    with Ranks(tiny.llama(), 2, timeout_s=60) as ranks:
        pids = ranks.pids
        killed_after(pids[victim], 0.5)
        begin = time.monotonic()
        with pytest.raises(RankLostError, match=f"rank {victim} ended by SIGKILL in endless"):
            ranks.call(tiny.endless)
        assert time.monotonic() - begin < 10
    assert not any(alive(pid) for pid in pids)


def test_a_rank_that_hangs_is_told_after_the_timeout():
    with Ranks(tiny.llama(), 2, timeout_s=60) as ranks:
        os.kill(ranks.pids[1], signal.SIGSTOP)
        with pytest.raises(RankLostError, match="rank 0 and 1 did not answer within 2 s in endless"):
            ranks.call(tiny.endless, timeout_s=2)


def test_what_a_rank_raises_is_told_once_before_what_its_neighbours_lost_by_it():
    with (
        Ranks(tiny.llama(), 2, timeout_s=60) as ranks,
        pytest.raises(RuntimeError, match="rank 0: KeyError: 'planted'"),
    ):
        ranks.call(tiny.planted)


@pytest.mark.slow
def test_no_rank_outlives_its_parent(tmp_path: Path):
    tests = Path(__file__).parents[1]
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import tiny_prefill as tiny\n"
        "from lightsleeper.generation.ranks import Ranks\n"
        "if __name__ == '__main__':\n"
        "    with Ranks(tiny.llama(), 2) as ranks:\n"
        "        print(*ranks.pids, flush=True)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py", tests], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def test_nccl_without_gpus_is_refused():
    with pytest.raises(UserError, match="nccl needs a GPU a rank"):
        Ranks(tiny.llama(), 2, backend="nccl")


def test_a_shared_model_computes_the_same_and_its_tied_weights_stay_one():
    model, ids = tiny.llama(tie_word_embeddings=True), tiny.prompt(9)
    twin = share(model).open()
    assert twin.get_input_embeddings().weight is twin.get_output_embeddings().weight
    assert torch.equal(twin(ids).logits, model(ids).logits)
    assert all(parameter.is_shared() for parameter in twin.parameters())
    assert model.get_input_embeddings().weight.requires_grad
