import os
import signal
import sys
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(Path(__file__).parent))  # tests share helpers such as models/batches.py


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings, or a skip that says how to get there."""
    folder = os.environ.get("LIGHTSLEEPER_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIGHTSLEEPER_REAL_DATA names no folder of recordings")
    return Path(folder)
