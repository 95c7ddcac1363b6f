"""Which machine a latency belongs to: enough to keep two machines apart, nothing that names the machine or its user."""

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path


@cache
def fingerprint() -> dict[str, str | int]:
    """CPU model, logical cores, OS, ONNX Runtime version, and ``id``, a hash of these.

    Latencies share an axis only where ``id`` is equal.
    """
    import onnxruntime

    facts: dict[str, str | int] = {
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "os": f"{platform.system()} {platform.release()}",
        "onnxruntime": onnxruntime.__version__,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **facts}


def cpu_model() -> str:
    """The processor's name as the system tells it, or unknown."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return platform.processor() or "unknown"
