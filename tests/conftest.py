import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that run side by side share the cores; set before torch is imported.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# Benchmarks of a machine wait for each other: those of tests only for those of other tests, also in child processes.
tempfile.tempdir = os.environ["TMPDIR"] = str(Path(tempfile.gettempdir(), f"lightsleeper-tests-{os.getuid()}"))
Path(tempfile.tempdir).mkdir(exist_ok=True)

sys.path.insert(0, str(Path(__file__).parent))  # tests share helpers such as models/batches.py


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings, or a skip that says how to get there."""
    folder = os.environ.get("LIGHTSLEEPER_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIGHTSLEEPER_REAL_DATA names no folder of recordings")
    return Path(folder)
