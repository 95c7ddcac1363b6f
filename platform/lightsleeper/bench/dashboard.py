"""What the dashboard costs: thousands of records into the index, the payload and the page.

The floor is `json.loads` of the same files: what any program has to do that reads them all. Times are the smallest of
some calls, with the files in the system's cache.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightsleeper.dashboard import generate, index
from lightsleeper.dashboard.make import page
from lightsleeper.dashboard.payload import build, to_json

TARGET_PAGE_BYTES = 15_000_000
CHANGED = 10  # records rewritten between two calls


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return all numbers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if args.runs_dir:
            _link(Path(args.runs_dir), root)
        else:
            generate.write(root, args.records, points=args.points)
        result = measure(root, args.repeats)
    result["made_up"] = args.runs_dir is None
    _show(result)
    return result


def measure(root: Path, repeats: int) -> dict[str, Any]:
    """Seconds and bytes of each step for the records below ``root``."""
    files = [root / path for path, _ in index.files(root)]
    cache = root / index.CACHE

    def cold() -> None:
        cache.unlink(missing_ok=True)
        index.load(root)

    def changed() -> None:
        for path in files[:CHANGED]:
            os.utime(path)
        index.load(root)

    seconds = {
        "floor": _fastest(lambda: [json.loads(path.read_bytes()) for path in files], repeats),
        "index_cold": _fastest(cold, repeats),
        "index_warm": _fastest(lambda: index.load(root), repeats),
        "index_changed": _fastest(changed, repeats),
    }
    table = index.load(root)
    seconds["payload"] = _fastest(lambda: build(table, "runs"), repeats)
    payload = build(table, "runs")
    seconds["page"] = _fastest(lambda: page(payload), repeats)
    return {
        "records": len(files),
        "record_bytes": sum(path.stat().st_size for path in files),
        "index_bytes": cache.stat().st_size,
        "payload_bytes": len(to_json(payload)),
        "page_bytes": len(page(payload).encode()),
        "left_out": {name: payload[f"{name}_left_out"] for name in ("metrics", "curves", "training")},
        "seconds": seconds,
        "repeats": repeats,
        "cores": os.cpu_count(),
    }


def _link(source: Path, root: Path) -> None:
    """The same records under another folder, so that the index of ``source`` is left alone."""
    for path, _ in index.files(source):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((source / path).resolve())


def _fastest(action: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def _show(result: dict[str, Any]) -> None:
    seconds, count = result["seconds"], result["records"]
    kind = "made-up records" if result["made_up"] else "records"
    print(
        f"dashboard: {count} {kind} of {result['record_bytes'] / count / 1e3:.0f} kB; fastest of "
        f"{result['repeats']} calls, files in the system's cache, {result['cores']} cores"
    )
    for name, text in (
        ("floor", "json.loads of all records (the floor)"),
        ("index_cold", "index, none there"),
        ("index_warm", "index, nothing changed"),
        ("index_changed", f"index, {CHANGED} records changed"),
        ("payload", "payload from the index"),
        ("page", "page from the payload"),
    ):
        ratio = f"   {seconds[name] / seconds['floor']:.2f} of the floor" if name.startswith("index") else ""
        print(f"{text:40}{seconds[name]:9.3f} s{ratio}")
    for name in ("index", "payload", "page"):
        print(f"{name:40}{result[f'{name}_bytes'] / 1e6:9.2f} MB")
    for name, left in result["left_out"].items():
        amount = len(left) if isinstance(left, list) else left
        if amount:
            print(f"left out of the page: {amount} {'metrics' if name == 'metrics' else f'runs without {name}'}")
    reached = "reached" if result["page_bytes"] <= TARGET_PAGE_BYTES else "MISSED"
    print(f"page below {TARGET_PAGE_BYTES / 1e6:.0f} MB: {reached}")
