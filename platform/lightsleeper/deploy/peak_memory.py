"""Peak memory of one ONNX model, measured in a process of its own: `python -m lightsleeper.deploy.peak_memory`.

Prints the bytes that loading and running the file add to a process that has already imported ONNX Runtime. Imports
nothing heavy: what it imports would be part of the baseline.
"""

import sys
from pathlib import Path

import numpy as np

CALLS = 5  # the arena of the runtime has its final size after the second call (measured)


def main(model: str, inputs: str) -> int:
    """Load ``model``, run it on the arrays of ``inputs`` (npz), print the growth in bytes."""
    import onnxruntime

    feeds = dict(np.load(inputs))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    before = reset_peak()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(CALLS):
        session.run(None, feeds)
    print(max(0, peak() - before))
    return 0


def reset_peak() -> int:
    """Resident bytes now; the kernel's high-water mark starts from here where it can be reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return peak()


def peak() -> int:
    """High-water mark of resident bytes.

    Not ru_maxrss where it can be avoided: Linux hands that of the parent, a training process, on to the child.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
