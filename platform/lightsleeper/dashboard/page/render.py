"""A payload becomes one HTML file that opens from disk: style, scripts, plotly and the data are all inside.

Nothing a run record holds is ever markup. The payload sits in a data block whose `<`, `>`, `&` and line separators are
escaped, the scripts put it on the page as text, and the page's policy runs only the two scripts that this file hashed
and lets nothing be fetched.
"""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

SCRIPTS = (
    *("dom", "data", "state", "math", "rows", "chart", "tips", "legends", "groups"),
    *("tradeoff", "sweeps", "heatmap", "curves", "training", "runs", "compare", "main"),
)
"""One scope, in this order; `main` starts the page."""

UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""What could end a script element or a line of one; inside JSON these occur in strings only."""


def render(payload: dict[str, Any]) -> str:
    """The page for ``payload`` (see `dashboard.payload`), about 5 MB of plotly and the data.

    Raises ValueError for NaN or infinity, which JSON does not have.
    """
    from plotly.offline import get_plotlyjs

    here = files(__package__)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        here.joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    code = "\n".join(here.joinpath("js", f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    plotly, script = get_plotlyjs(), f'"use strict";\n(() => {{\n{code}}})();'
    return template.render(
        source=payload.get("source") or "runs",
        policy=policy(plotly, script),
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        data=Markup(data_block(payload)),
        plotly=Markup(plotly),
        script=Markup(script),
    )


def data_block(payload: dict[str, Any]) -> str:
    """JSON that cannot leave its script element and that a JavaScript parser reads as well."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(UNSAFE)


def policy(*scripts: str) -> str:
    """Content security policy: these scripts by their hash, styles inside the page, images made by it, nothing else.

    Styles need 'unsafe-inline' because plotly sets style attributes.
    """
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
