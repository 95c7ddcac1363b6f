"""The page as a file: self-contained, with records as data and nothing else. No browser here."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from dashboard.page_driver import bare, made_up
from lightsleeper.dashboard.page.render import SCRIPTS, data_block, render

HOSTILE = "</script><script>alert(1)</script><!--\u2028]]>&amp;<img src=x onerror=alert(1)>"
FOLDER = files("lightsleeper.dashboard.page")


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of every script and style."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.texts:
            self.texts[tag].append("")
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return made_up(30)


@pytest.fixture(scope="module")
def elements(content) -> Elements:
    return Elements(render(content))


def test_nothing_in_the_page_points_outside(elements):
    addresses = [
        value for _, given in elements.tags for key, value in given.items() if key in ("src", "href", "action")
    ]
    assert addresses
    assert [address for address in addresses if not str(address).startswith(("data:", "#"))] == []


def test_style_and_own_scripts_name_no_address_but_of_the_svg_namespace(elements):
    own = elements.texts["style"] + elements.texts["script"][-1:]
    found = {address for text in own for address in re.findall(r"https?:\S+?(?=[\"'`)\s])", text)}
    assert found == {"http://www.w3.org/2000/svg", "https://"}  # a name, and what a link must start with


def test_the_policy_runs_only_the_two_scripts_of_the_page_and_fetches_nothing(elements):
    policies = [
        given["content"] for tag, given in elements.tags if given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in elements.texts["script"][1:]]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_the_data_come_back_as_they_went_in(content, elements):
    assert json.loads(elements.texts["script"][0]) == content


def test_a_hostile_text_stays_one_text():
    payload = bare(2, id=[HOSTILE, "b"], recipe=[HOSTILE, "b"]) | {"source": HOSTILE}
    elements = Elements(render(payload))
    assert len(elements.texts["script"]) == 3
    assert json.loads(elements.texts["script"][0]) == payload
    assert elements.texts["title"][0].startswith(HOSTILE)
    assert [tag for tag, _ in elements.tags if tag == "img"] == []


def test_the_data_block_holds_no_character_that_could_end_it():
    assert not set(data_block({"x": HOSTILE + "\u2029"})) & set("<>&\u2028\u2029")


def test_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        render(bare() | {"version": float("nan")})


def test_every_script_of_the_folder_is_in_the_page_once():
    assert sorted(f"{name}.js" for name in SCRIPTS) == sorted(file.name for file in FOLDER.joinpath("js").iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_parses_text_as_markup_or_code(name):
    text = FOLDER.joinpath("js", f"{name}.js").read_text(encoding="utf-8")
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text)
        == []
    )


def test_an_empty_page_is_little_more_than_plotly():
    from plotly.offline import get_plotlyjs

    assert len(render(bare(0)).encode()) - len(get_plotlyjs().encode()) < 150_000
