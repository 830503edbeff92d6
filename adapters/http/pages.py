"""Pages for people: the API's description, the browser client, examples. No data, so no token.

Every file is read once, when the application is made; what was not read then is not there, whatever
the path says. Nothing is loaded from elsewhere, and each page's content security policy holds it to
that.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from adapters.settings import Settings

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"
_EXAMPLES = (_HERE / "examples", _HERE.parents[1] / "docs" / "examples")
"""Where the installed package has them, and where a checkout does."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""`data:` since Swagger UI's style sheet holds its icons."""


@dataclass(frozen=True)
class Page:
    """One file. tag: a strong entity tag, from the hash of the content."""

    content: bytes
    media_type: str
    tag: str

    def answer(self, request: Request) -> Response:
        """Whole, or 304 if the browser has it. A file keeps its name from version to version, so a
        browser asks each time, and the tag makes that cheap."""
        headers = {
            "ETag": self.tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _POLICY,
        }
        if self.tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def router(settings: Settings) -> APIRouter:
    """The paths that the settings allow."""
    found = APIRouter(include_in_schema=False)
    if settings.pages:
        assets = files("fastapi_offline") / "static"
        documented = {
            name: _page(folder / name)
            for folder, name in (
                (_STATIC, "docs.html"),
                (_STATIC, "docs.js"),
                (assets, "swagger-ui-bundle.js"),
                (assets, "swagger-ui.css"),
            )
        }
        _add_one(found, "/docs", documented["docs.html"])
        _add_folder(found, "/docs/{file}", documented)
        _add_one(found, "/static/lapse.js", _page(_STATIC / "lapse.js"))
    if settings.examples:
        examples = {file.name: _page(file) for file in _example_files()}
        _add_one(found, "/examples/", examples["index.html"])
        _add_folder(found, "/examples/{file}", examples)
    return found


def _add_one(to: APIRouter, path: str, page: Page) -> None:
    @to.get(path)
    async def one(request: Request) -> Response:
        return page.answer(request)


def _add_folder(to: APIRouter, path: str, pages: Mapping[str, Page]) -> None:
    @to.get(path)
    async def one_of(file: str, request: Request) -> Response:
        if file not in pages:
            raise HTTPException(404)
        return pages[file].answer(request)


def _example_files() -> list[Path]:
    folder = next(folder for folder in _EXAMPLES if folder.is_dir())
    return sorted(file for file in folder.iterdir() if file.suffix in _TYPES)


def _page(file: Traversable) -> Page:
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Page(content, _TYPES[Path(file.name).suffix], tag)
