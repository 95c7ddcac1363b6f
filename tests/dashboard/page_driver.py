"""Made-up payloads, and the page in an installed Chromium without a network."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightsleeper.dashboard import generate, payload, rows
from lightsleeper.dashboard.page.render import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"phone": (390, 844), "tablet": (1024, 768), "desk": (1920, 1080)}
VIEWS = ("tradeoff", "sweep", "detection", "runs", "compare", "training")
OWN = ("file:", "data:", "blob:", "about:")


@cache
def made_up_text(count: int) -> str:
    table = pa.Table.from_pylist(
        [{"key": str(i), "path": str(i), **rows.row(record)} for i, record in enumerate(generate.records(count))],
        rows.TABLE,
    )
    return payload.to_json(payload.build(table, "made-up runs"))


def made_up(count: int) -> dict[str, Any]:
    """A payload of ``count`` generated runs, the caller's own to change."""
    return json.loads(made_up_text(count))


def bare(count: int = 1, **columns: list[Any]) -> dict[str, Any]:
    """The smallest payload: ``count`` finished runs that measured nothing."""
    runs: dict[str, list[Any]] = {
        "id": [f"20261101-0000{i:02d}-aaaa" for i in range(count)],
        "recipe": ["kws_dsp"] * count,
        "family": ["KeywordDSP"] * count,
        "status": ["finished"] * count,
        "started": ["2026-11-01T00:00:00+00:00"] * count,
        **columns,
    }
    empty: dict[str, Any] = {"metrics": {}, "knobs": {}, "sweeps": [], "curves": {}, "training": {}, "views": []}
    return {
        "version": 1,
        "generated": "2026-11-26T05:00:00+00:00",
        "source": "runs",
        "skipped": [],
        "runs": runs,
        **empty,
    }


def quality(values: list[float | None], **more: Any) -> dict[str, Any]:
    return {"label": "AUC", "unit": "", "kind": "quality", "better": "higher", "value": values, "low": None, **more}


def latency(values: list[float | None], **more: Any) -> dict[str, Any]:
    entry = {"label": "Latency", "unit": "ms", "kind": "cost", "better": "lower", "machine": True, "value": values}
    return {**entry, **more}


class Page:
    """A page that is open, and everything that it should not have done."""

    def __init__(self, page: Any, path: Path):
        self.page, self.path = page, path
        self.wrong: list[str] = []
        page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(OWN) else self.wrong.append(f"request {r.url}"))
        page.route(lambda url: not url.startswith(OWN), lambda route: route.abort())

    def go(self, fragment: str = "") -> None:
        """To another state of the open page, as following a link would."""
        self.page.evaluate("fragment => { location.hash = fragment; }", fragment)
        self.page.wait_for_timeout(60)

    def open(self, fragment: str = "") -> float:
        """Load the page; the milliseconds until its first view was drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.path.as_uri()}#{fragment}")
        mark = "performance.getEntriesByName('lightsleeper-drawn')[0].startTime"
        return float(self.page.evaluate(mark))

    def plot(self, name: str, what: str) -> Any:
        """A JavaScript expression of the plotly element ``plot``, such as `plot.data.length`."""
        return self.page.evaluate(
            f"(() => {{ const plot = document.getElementById('plot-{name}'); return {what}; }})()"
        )

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def cells(self, selector: str = "table.runs") -> list[list[str]]:
        """Texts of a table's body, once it is there."""
        self.page.wait_for_selector(selector, state="attached")
        rows_of = (
            "table => [...table.tBodies].flatMap(b => [...b.rows]).map(r => [...r.cells].map(c => c.innerText.trim()))"
        )
        return self.page.eval_on_selector(selector, rows_of)  # type: ignore[no-any-return]


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            yield browser
        finally:
            browser.close()


def write(folder: Path, content: dict[str, Any], name: str = "page.html") -> Path:
    path = folder / name
    path.write_text(render(content), encoding="utf-8")
    return path
