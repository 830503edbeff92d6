"""Pages for people: served whole, to anybody, and with nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from adapters.http import pages
from adapters.settings import load_settings
from domain.errors import SettingsInvalid
from tests.adapters.http.conftest import Site

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "examples"
CLIENT = ROOT / "adapters" / "http" / "static" / "lapse.js"
PATHS = {
    "/docs": "text/html",
    "/docs/docs.js": "text/javascript",
    "/docs/swagger-ui-bundle.js": "text/javascript",
    "/docs/swagger-ui.css": "text/css",
    "/static/lapse.js": "text/javascript",
    "/examples/": "text/html",
    **{
        f"/examples/{file.name}": pages._TYPES[file.suffix].partition(";")[0]
        for file in EXAMPLES.iterdir()
        if file.suffix in pages._TYPES
    },
}


def test_every_page_is_what_it_says_and_may_load_nothing_from_elsewhere(site: Site) -> None:
    """Type, no guessing of types, one content security policy without inline scripts or styles."""
    for path, media_type in PATHS.items():
        answer = site.client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        [policy] = answer.headers.get_list("Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


def test_a_browser_that_has_a_page_gets_no_second_copy(site: Site) -> None:
    """It asks each time, and the tag changes with the content."""
    tags = set()
    for path in PATHS:
        answer = site.client.get(path)
        assert answer.headers["Cache-Control"] == "no-cache"
        tag = answer.headers["ETag"]
        again = site.client.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == tag
        other = site.client.get(path, headers={"If-None-Match": '"another"'})
        assert other.status_code == 200
        tags.add(tag)
    assert len(tags) == len(PATHS) - 1  # the index has two paths


@pytest.mark.parametrize(
    "path",
    [
        "/examples/none.html",
        "/examples/..%2f..%2fpyproject.toml",
        "/examples/%2e%2e/%2e%2e/pyproject.toml",
        "/docs/..%2fpages.py",
        "/examples/analyse.py",
        "/static/docs.html",
        "/docs/%00",
    ],
)
def test_nothing_else_is_served(site: Site, path: str) -> None:
    """A path is looked up in a table and never opened."""
    assert site.client.get(path).status_code == 404


def test_pages_are_served_only_as_the_settings_say() -> None:
    """By default the description and the client; examples when asked for; or nothing at all."""

    def served(**chosen: bool) -> set[str]:
        routes: Any = pages.router(load_settings(**chosen)).routes
        return {route.path for route in routes}

    usual = {"/docs", "/docs/{file}", "/static/lapse.js"}
    assert served() == usual
    assert served(pages=False) == set()
    assert served(examples=True) == usual | {"/examples/", "/examples/{file}"}


def test_examples_are_not_served_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They load the client, so switching that off and them on is a contradiction."""
    assert (load_settings().pages, load_settings().examples) == (True, False)
    monkeypatch.setenv("LAPSE_PAGES", "false")
    assert load_settings().pages is False
    monkeypatch.setenv("LAPSE_EXAMPLES", "true")
    with pytest.raises(SettingsInvalid, match="LAPSE_EXAMPLES"):
        load_settings()


class Loading(HTMLParser):
    """What a page loads, and what stands in it that a strict policy refuses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.labels: set[str] = set()
        self.named: set[str] = set()
        self.inputs: set[str] = set()
        self.language = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        if tag == "html":
            self.language = given.get("lang", "")
        if tag == "label":
            self.labels.add(given["for"])
        if tag in ("input", "progress"):
            self.inputs.add(given["id"])
        if "id" in given:
            self.named.add(given["id"])


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.html")), ids=lambda file: file.name)
def test_an_example_page_needs_nothing_but_its_neighbours(file: Path) -> None:
    """No inline script or style, no other host, every field with a label, a language."""
    page = Loading(file.read_text())
    assert page.inline == []
    assert page.language == "en"
    assert page.inputs <= page.labels
    for link in page.links:
        assert link in ("data:,", "./") or (EXAMPLES / link).is_file(), link


@pytest.mark.parametrize(
    "file", [CLIENT, *sorted(EXAMPLES.glob("*.js"))], ids=lambda file: file.name
)
def test_a_script_imports_its_neighbours_only(file: Path) -> None:
    """Modules by relative path; no host is named, nothing is evaluated, no markup is written."""
    text = file.read_text()
    for imported in re.findall(r"^(?:import|export) .*from '([^']+)'", text, re.MULTILINE):
        target = EXAMPLES.parent.parent / "adapters" / "http" / imported.removeprefix("../")
        assert (EXAMPLES / imported).is_file() or target.is_file(), imported
    assert not re.search(r"https?://|\beval\(|new Function|innerHTML|document\.write", text)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.js")), ids=lambda file: file.name)
def test_a_token_is_never_put_into_storage_or_an_address(file: Path) -> None:
    """Pages keep it in a variable; the client's cache is the only thing that stores."""
    text = file.read_text()
    assert "localStorage" not in text
    assert "sessionStorage" not in text
    assert "token=" not in text
