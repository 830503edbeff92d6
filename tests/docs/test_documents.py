"""The documents say what is true: commands run as written, references name everything there is."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic_core import PydanticUndefined
from sqlalchemy import MetaData

import dev
from adapters.cli.main import app
from adapters.http import problems
from adapters.http.access import ACCESS
from adapters.http.metrics import Metrics
from adapters.http.opening import open_http
from adapters.http.requests import Entry
from adapters.http.tokens import Role
from adapters.log import schema
from adapters.settings import Settings, load_settings
from adapters.wiring import open_lapse
from domain.facts import FACTS
from domain.policy import Applied
from domain.session import EVENTS, Event
from projections import tables
from tests.acceptance import databases
from tests.docs.documents import (
    ROOT,
    Block,
    anchors,
    blocks,
    code,
    links,
    prose,
    sections,
    table_rows,
)
from tests.docs.program import fast_lapse
from tests.servers import PostgresServer, find_programs

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference"
WITH_COMMANDS = [
    path for path in DOCUMENTS if any(block.language == "sh" for block in blocks(path))
]

POSTGRES_URL = "postgresql://lapse@localhost/lapse"
"""The database of the documents; one that is called `lapse_restored` is a second one."""

# One day's visits to a small site, for documents that begin with a log that the reader has.
ACCESS_LOG = """\
192.0.2.10 - - [10/Nov/2026:09:00:00 +0000] "GET / HTTP/1.1" 200 5120
192.0.2.11 - - [10/Nov/2026:09:01:10 +0000] "GET /opening-hours HTTP/1.1" 200 2048
192.0.2.10 - - [10/Nov/2026:09:04:30 +0000] "GET /catalogue HTTP/1.1" 200 9011
198.51.100.7 - - [10/Nov/2026:09:45:00 +0000] "GET / HTTP/1.1" 200 5120
"""


def document_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The PATH of somebody who set Lapse up and has PostgreSQL's client programs."""
    with fast_lapse(tmp_path_factory.mktemp("program")) as folder:
        python = str(Path(sys.executable).parent)
        yield os.pathsep.join([str(folder), python, str(find_programs()), os.defpath])


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What the databases of a document are in this run, the longer names first."""
    path: Path = request.getfixturevalue("path")
    named = [url for url in (f"{POSTGRES_URL}_restored", POSTGRES_URL) if url in path.read_text()]
    if not named:
        yield {}
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = {url: server.create_database() for url in named}
    yield made
    for url in made.values():
        server.drop_database(url)


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=document_id)
def test_every_command_of_a_document_does_what_it_says(
    path: Path, programs: str, urls: dict[str, str], tmp_path: Path
) -> None:
    """Each document is one shell session; what it shows as output is what comes out."""
    found = [block for block in blocks(path) if block.language in ("sh", "text", "json")]
    commands = [block for block in found if block.language == "sh"]
    if shutil.which("curl") is None and any("curl " in block.text for block in commands):
        pytest.skip("its commands ask over HTTP with curl: install the Debian package curl")
    script = "set -eu\n" + "".join(
        shell_lines(number, block) for number, block in enumerate(commands)
    )
    for url, real in urls.items():
        script = script.replace(url, shlex.quote(real))
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    (folder / "access.log").write_text(ACCESS_LOG)
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={
            "PATH": programs,
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "OUT": str(tmp_path),
            "GOCACHE": str(ROOT / "build" / "go" / "cache"),  # what was compiled is kept
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = "".join(file.read_text() for file in sorted(tmp_path.glob("err.*")))
    assert ended.returncode == 0, f"{ended.stderr}\n{told}"
    for real in urls.values():
        assert databases.value(real, "SELECT count(*) FROM events") > 0
    for number, (block, shown) in enumerate(with_output(found)):
        if shown is not None:
            stream = "out" if block.exit_code == 0 else "err"
            printed = (tmp_path / f"{stream}.{number:03}").read_text()
            assert comparable(printed, shown) == comparable(shown.text, shown)


def shell_lines(number: int, block: Block) -> str:
    """The lines of a block, its output kept, and its exit code checked."""
    text = "".join(line for line in block.text.splitlines(True) if not of_the_checkout(line))
    kept = f'>"$OUT/out.{number:03}" 2>"$OUT/err.{number:03}"'
    if number_of_code := block.exit_code:
        return f"set +e\n{{\n:\n{text}}} {kept}\n[ $? = {number_of_code} ] || exit 99\nset -e\n"
    return f"{{\n:\n{text}}} {kept}\n"


def of_the_checkout(line: str) -> bool:
    """Whether a line belongs to a checkout; what it calls there must exist."""
    if not line.startswith("python3 dev.py"):
        return False
    _, _, command, *arguments = shlex.split(line, comments=True)
    assert command in dev.COMMANDS
    if command == "run" and arguments:
        command_of("demo").make_context("demo", arguments)
    if command in ("bench", "torture") and arguments:
        kind = "benchmarks" if command == "bench" else command
        assert (ROOT / "tests" / kind / f"{arguments[0]}.py").exists()
    return True


def with_output(found: list[Block]) -> Iterator[tuple[Block, Block | None]]:
    """Each block of commands with the block of output right behind it, if one is there."""
    for number, block in enumerate(found):
        following = found[number + 1] if number + 1 < len(found) else None
        if block.language == "sh":
            shows = following is not None and following.language != "sh" and not block.after.strip()
            yield block, following if shows else None


def comparable(text: str, shown: Block) -> Any:
    """Output without what differs from run to run: random ids, tokens, order, durations."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "ID", text)
    text = re.sub(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN", text)
    if shown.language == "json":
        return sorted_lists(json.loads(text, parse_float=lambda _: 0.5))
    text = re.sub(r"(?<![:.\d])\d+\.\d+(?![.\d])", "0.5", text)
    text = re.sub(r"─+", "", text)
    return sorted(" ".join(line.split()) for line in text.splitlines() if line.strip())


def sorted_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_lists(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((sorted_lists(inner) for inner in value), key=repr)
    return value


# -- links and places -------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_id)
def test_links_lead_somewhere(path: Path) -> None:
    """Every file and heading that a document points to exists."""
    for link in links(path):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_id)
def test_no_document_names_a_place_of_one_machine(path: Path) -> None:
    """A reader's folders are not those of whoever wrote."""
    assert not re.search(r"/(?:work|root|tmp|home/\w+)/", path.read_text())
    assert str(Path.home()) not in path.read_text()


def test_every_page_can_be_found_from_the_readme() -> None:
    """Nothing is documented where nobody comes by."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path)}
        waiting += [to for to in targets - reached if to.suffix == ".md" and to.exists()]
    assert {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")} <= reached


# -- the reference ----------------------------------------------------------------------------


def command_of(*names: str) -> Any:
    """A command as typer made it: an object of its own copy of click, which has no public types."""
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command


def all_commands(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(name), command
        return
    for inner, one in command.commands.items():
        yield from all_commands(one, (*name, inner))


def documented_commands() -> dict[str, tuple[str, str]]:
    """Name of a command -> heading and text of its section in the reference."""
    return {
        " ".join(word for word in code(heading)[0].split()[1:] if word.islower()): (heading, text)
        for heading, text in sections(REFERENCE / "cli.md").items()
        if heading.startswith("`lapse ")
    }


def test_the_reference_has_every_command() -> None:
    """Every command has a section, and no section is of a command that is gone."""
    assert set(documented_commands()) == {name for name, _ in all_commands(command_of())}


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(*one, id=one[0]) for one in all_commands(command_of())]
)
def test_the_reference_has_every_option(name: str, command: Any) -> None:
    """Options, their defaults and arguments of a command stand in its section, and no others."""
    heading, text = documented_commands()[name]
    documented = {
        code(cells[0])[0]: (code(cells[1]) or [""])[0]
        for cells in table_rows(text)
        if code(cells[0])
    }
    options = [one for one in command.params if one.param_type_name == "option"]
    assert documented == {option.opts[0]: default_of(option) for option in options}
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    assert code(heading)[0] == " ".join(["lapse", name, *map(written, arguments)])


def written(argument: Any) -> str:
    """An argument in a heading: several are `FILE...`, one that may be missing is `[NAME]`."""
    several = "..." if argument.nargs == -1 else ""
    return f"{argument.metavar}{several}" if argument.required else f"[{argument.metavar}]"


def default_of(option: Any) -> str:
    return "" if option.is_flag or option.default in (None, "") else str(option.default)


def test_the_reference_has_every_setting() -> None:
    """Every field of the settings is a row, with its default."""
    rows = list(table_rows(sections(REFERENCE / "settings.md")["Settings"]))
    documented = {code(cells[0])[0]: (code(cells[1]) or [""])[0] for cells in rows}
    settings = {
        f"LAPSE_{name.upper()}": ""
        if field.default in (None, PydanticUndefined)
        else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    made_at_start = {name for name, field in Settings.model_fields.items() if field.default_factory}
    for name in made_at_start:
        assert documented[f"LAPSE_{name.upper()}"]
        settings[f"LAPSE_{name.upper()}"] = documented[f"LAPSE_{name.upper()}"]
    assert documented == settings


def test_the_reference_has_every_event() -> None:
    """Every topic is a row with its own fields; the fields of all stand once."""
    found = sections(REFERENCE / "events.md")
    shared = {code(cells[0])[0] for cells in table_rows(found["What every event has"])}
    assert shared == {field.name for field in fields(Event)}
    documented = {
        code(cells[0])[0]: set(code(cells[1])) for cells in table_rows(found["Events of a session"])
    }
    assert documented == {
        kind.TOPIC: {field.name for field in fields(kind)} - shared for kind in EVENTS
    }
    own = {code(cells[0])[0]: set(code(cells[1])) for cells in table_rows(found["Policies"])}
    assert own == {Applied.TOPIC: {field.name for field in fields(Applied)} - shared}
    of_facts = ("Copies for people", "Requests and holds of people", "The installation")
    told = {
        code(cells[0])[0]: set(code(cells[1]))
        for heading in of_facts
        for cells in table_rows(found[heading])
    }
    assert told == {kind.TOPIC: {field.name for field in fields(kind)} - shared for kind in FACTS}


def test_the_reference_has_every_table() -> None:
    """Every table is a section with all of its columns."""
    documented = {
        heading.strip("`"): {name for cells in table_rows(text) for name in code(cells[0])}
        for heading, text in sections(REFERENCE / "database.md").items()
        if heading.startswith("`")
    }
    everything: list[MetaData] = [schema.metadata, tables.metadata]
    # Of each month, made when its first request comes.
    assert documented.pop("requests_YYYY_MM") == {"id", *(field.name for field in fields(Entry))}
    assert documented == {
        table.name: set(table.columns.keys())
        for metadata in everything
        for table in metadata.tables.values()
    }


# -- the reference of the HTTP API ------------------------------------------------------------

HTTP = REFERENCE / "http.md"


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """`GET /v1/...` -> the operation, from the OpenAPI document of the service itself."""
    folder = tmp_path_factory.mktemp("api")
    settings = load_settings(
        database_url=f"sqlite:///{folder}/db/lapse.db", key_url=(folder / "keys").as_uri()
    )
    with open_lapse(settings) as lapse, open_http(lapse) as api:
        document = api.openapi()
    schemas = document["components"]["schemas"]
    return {
        f"{method.upper()} {path}": operation | {"fields": fields_of(operation, schemas)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def fields_of(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> set[str]:
    """Fields of the body, and what may stand in the query."""
    named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    if body := operation.get("requestBody"):
        taken = body["content"].get("application/json", {}).get("schema", {})
        if "$ref" in taken:
            taken = schemas[taken["$ref"].rpartition("/")[2]]
        named |= set(taken.get("properties", ()))
    return named


def test_the_reference_says_who_may_do_what() -> None:
    """Its table is the one that every request is asked by, role by role."""
    rows = list(table_rows(sections(HTTP)["Who may do what"]))
    documented = {code(cells[0])[0]: frozenset(map(Role, code(cells[1]))) for cells in rows}
    assert len(documented) == len(rows)
    assert {name for name, roles in documented.items() if not roles} == {
        code(cells[0])[0] for cells in rows if cells[1] == "public"
    }
    assert documented == {
        f"{method} {path}": roles - {Role.ADMIN} for (method, path), roles in ACCESS.items()
    }


def test_the_reference_has_every_request(operations: Mapping[str, Any]) -> None:
    """Every operation has a section with its fields, its answer, and whether it takes a key."""
    documented = {
        code(heading)[0]: text
        for heading, text in sections(HTTP).items()
        if re.match(r"`(?:GET|POST|PUT|DELETE) ", heading)
    }
    assert documented.keys() == {*operations, "GET /openapi.json"}
    for name, operation in operations.items():
        text = documented[name]
        rows = (
            {code(cells[0])[0] for cells in table_rows(text)} if name != "GET /metrics" else set()
        )
        assert rows == operation["fields"], name
        for status in operation["responses"]:
            assert not status.startswith("2") or f"**{status}**" in text, name
        headers = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "header"}
        assert ("*key*" in text) is ("Idempotency-Key" in headers), name


def refusals_in_the_code() -> Iterator[tuple[str, int]]:
    """(name, status) of every problem that the HTTP layer makes with a name written there."""
    for path in sorted((ROOT / "adapters" / "http").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id in ("Refused", "problem", "_plain") and len(call.args) >= 2:
                status, name = call.args[:2]
                if isinstance(status, ast.Constant) and isinstance(name, ast.Constant):
                    yield str(name.value), int(str(status.value))


def test_the_reference_has_every_problem() -> None:
    """With its status. `limit-` names are made from the scopes."""
    rows = list(table_rows(sections(HTTP)["Problems"]))
    documented = {(code(cells[0])[0], int(cells[1])) for cells in rows}
    assert len(documented) == len(rows)
    made = {("limit-concurrent", 429), ("limit-owner", 429)}
    made |= {("limit-bytes", 413), ("limit-result", 413)}
    known = {(name, status) for status, (name, _) in problems._STATUSES.items()}
    assert documented == {*refusals_in_the_code(), *made, *known}


def test_the_reference_has_every_figure() -> None:
    """Each that a process counts or reads, by the name under which Prometheus finds it."""
    documented = {code(cells[0])[0] for cells in table_rows(sections(HTTP)["`GET /metrics`"])}
    assert documented == {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics()._registry.collect()
    }


def test_documents_are_consistent_in_their_english() -> None:
    """The documents are written in British English; words of the program are in backticks."""
    american = re.compile(
        r"\b(?:behavior|color|center|organize|recognize|analyze|catalog(?!ue)|favor)\w*\b",
        re.I,
    )
    for path in DOCUMENTS:
        assert american.findall(re.sub(r"`[^`]*`|\([^)]*\)", "", prose(path))) == [], path
