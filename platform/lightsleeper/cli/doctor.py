"""`lightning doctor`: what this machine offers and what stands in the way. Tells names and states, never keys."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

HELP = "Show versions, devices, who owns the `lightning` command, tracking state, disk space and optional packages."

PACKAGES = ("lightsleeper", "torch", "lightning", "numpy", "onnxruntime", "wandb")
EXTRAS = {  # extra -> (module it brings, what it is for)
    "demo": ("espeakng_loader", "the embedded corpus"),
    "microphone": ("sounddevice", "detect and listen --microphone"),
    "test": ("pytest", "the tests"),
}
COMMAND = "lightning"
DISTRIBUTION = "lightsleeper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")


def main(args: argparse.Namespace) -> int:
    problems = 0
    for name, value, fine in report(args.runs_dir):
        print(f"{'' if fine else '! '}{name}: {value}")
        problems += not fine
    print("no problems found" if not problems else f"{problems} thing(s) to look at, marked with !")
    return 0


def report(runs_dir: str | None = None) -> Iterator[tuple[str, str, bool]]:
    """(what, state, whether it is fine)."""
    from lightsleeper.tracking.environment import cpu_model, version
    from lightsleeper.tracking.runs import runs_root

    yield "python", f"{sys.version.split()[0]} at {sys.executable}", sys.version_info >= (3, 11)
    for package in PACKAGES:
        found = version(package)
        yield package, found or "not installed", found is not None
    yield "processor", f"{cpu_model()}, {os.cpu_count()} cores", True
    yield from _devices()
    yield from command_owner()
    yield _tracking()
    cache = Path(os.environ.get("LIGHTSLEEPER_CACHE") or Path.home() / ".cache" / "lightsleeper")
    for name, folder in (("runs", runs_root(runs_dir)), ("cache", cache)):
        yield _disk(name, folder)
    for extra, (module, purpose) in EXTRAS.items():
        missing = util.find_spec(module) is None
        yield f"extra {extra}", f"missing ({purpose}): pip install -e '.[{extra}]'" if missing else "installed", True
    names = sorted(name for name in os.environ if name.startswith("LIGHTSLEEPER_"))
    yield "variables set", ", ".join(names) or "none", True


def _devices() -> Iterator[tuple[str, str, bool]]:
    try:
        import torch
    except ImportError as error:
        yield "torch", f"cannot be imported: {error}", False
        return
    yield "threads", str(torch.get_num_threads()), True
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    yield "devices", ", ".join(devices), True


def command_owner(path: str | None = None) -> Iterator[tuple[str, str, bool]]:
    """Who answers to `lightning`: another package of this environment may install a script of that name over ours."""
    claims = sorted({_claim(point) for point in metadata.entry_points(group="console_scripts", name=COMMAND)})
    script = shutil.which(COMMAND, path=path)
    if script is None:
        yield f"`{COMMAND}`", f"not on the PATH; use `{DISTRIBUTION}` or {sys.executable} -m ...", False
        return
    text = ""
    with suppress(OSError):
        text = Path(script).read_text(encoding="utf-8", errors="ignore")[:4000]  # a generated script is ten lines long
    ours = f"{DISTRIBUTION}.cli" in text
    owner = DISTRIBUTION if ours else "another program"
    hint = "" if ours else f": use `{DISTRIBUTION}`, the same program under its own name"
    yield f"`{COMMAND}`", f"{script} belongs to {owner}{hint}", ours
    others = [claim for claim in claims if claim != DISTRIBUTION]
    if others:
        yield f"`{COMMAND}` is also claimed by", ", ".join(others), ours


def _claim(point: metadata.EntryPoint) -> str:
    return str(point.dist.name) if point.dist is not None else point.value


def _tracking() -> tuple[str, str, bool]:
    from lightsleeper.tracking.credentials import key_source

    source = key_source()
    mode = f", WANDB_MODE is {os.environ['WANDB_MODE']}" if os.environ.get("WANDB_MODE") else ""
    return "W&B key", (f"present ({source})" if source else "none: runs are logged offline") + mode, True


def _disk(name: str, folder: Path) -> tuple[str, str, bool]:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    state = f"{folder}, {free / 1e9:.1f} GB free{'' if writable else ', not writable'}"
    return name, state, writable and free > 300 * 10**6
