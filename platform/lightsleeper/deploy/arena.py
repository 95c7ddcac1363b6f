"""What ONNX Runtime needs for the tensors of a call: the smallest arena in which a graph runs.

The arena is one block of a given size; a call finds room in it or fails. Bisection over that size counts outputs,
intermediate tensors and what kernels take for themselves (a convolution that unrolls its input: 64 KiB a thread), as
ONNX Runtime packs them. Inputs and weights lie elsewhere. A child process does it: an arena is its process's for good.

    python -m lightsleeper.deploy.arena MODEL.onnx INPUTS.npz
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

STEP = 256  # bytes: the arena's own grain
LARGE, LARGEST = 1 << 24, 1 << 30


def arena_bytes(path: Path, feeds: Mapping[str, np.ndarray]) -> int | None:
    """Bytes for one call of ``path`` on ``feeds``, one thread; None where it cannot be measured (no fork, failure)."""
    if not hasattr(os, "fork"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **feeds)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "lightsleeper.deploy.arena", str(path), str(inputs)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(child.stdout) if child.returncode == 0 else None


def _fits(limit: int, path: str, feeds: Mapping[str, np.ndarray]) -> bool:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        _run(limit, path, feeds)
        code = 0
    finally:
        os._exit(code)


def _run(limit: int, path: str, feeds: Mapping[str, np.ndarray]) -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a failure is an answer
    one_block = {"max_mem": limit, "arena_extend_strategy": 1, "initial_chunk_size_bytes": limit}
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({**one_block, "max_dead_bytes_per_chunk": 1})  # no chunk larger than asked for
    onnxruntime.create_and_register_allocator(memory, arena)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights outside
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(3):  # from the second call on, tensors lie as the first one taught
        session.run(None, dict(feeds))


def smallest(path: str, feeds: Mapping[str, np.ndarray]) -> int:
    """Bytes. From above: an arena too small for anything is left unused, and everything runs.

    Raises RuntimeError where the graph does not run at all.
    """
    enough = LARGE
    while not _fits(enough, path, feeds):
        enough *= 4
        if enough > LARGEST:
            raise RuntimeError(f"{path} does not run")
    while _fits(enough // 2, path, feeds) and enough > 2 * STEP:
        enough //= 2
    low, high = enough // 2, enough
    while high - low > STEP:
        middle = (low + high) // (2 * STEP) * STEP
        if _fits(middle, path, feeds):
            high = middle
        else:
            low = middle
    return high


if __name__ == "__main__":
    import onnxruntime  # noqa: F401 - once, for all children

    with np.load(sys.argv[2]) as given:
        print(smallest(sys.argv[1], dict(given)))
