"""Facts about machine and code that a reader of a run needs to judge its numbers.

An allow-list: never environment variables, keys, paths or user names.
"""

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "lightning", "onnxruntime", "wandb", "numpy")


def environment(threads: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Versions, system and processor; nothing is imported for it."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
    }


def version(package: str) -> str | None:
    """Installed version of a package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Marketing name of the processor, or its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code_state() -> dict[str, Any]:
    """{version, commit, dirty}; commit and dirty are None unless the package runs from a git checkout."""
    checkout = Path(__file__).resolve().parents[3]
    state: dict[str, Any] = {"version": version("lightsleeper"), "commit": None, "dirty": None}
    if (checkout / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):
            state["commit"] = _git(checkout, "rev-parse", "HEAD").strip()
            state["dirty"] = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no").strip())
    return state


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
