"""The browser client in Chromium, against answers that the test makes and on the test's clock."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route

from tests.browsers import chromium, opened

CLIENT = Path(__file__).resolve().parents[3] / "adapters" / "http" / "static" / "lapse.js"
ORIGIN = "http://localhost"
"""Secure enough for hashing; nothing is ever sent there."""

ID = "0123456789abcdef0123456789abcdef"
ANN = "a" * 32
TOKEN = "eyJ.secret.token"  # noqa: S105 - of nobody
START = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000

Answer = Mapping[str, Any]
Answering = Callable[[Request], Answer]


def ok(document: Any, status: int = 200) -> Answer:
    return {"status": status, "json": document}


def problem(status: int, name: str, **members: Any) -> Answer:
    document = {"type": f"urn:lapse:problem:{name}", "title": name, "status": status, **members}
    return {
        "status": status,
        "body": json.dumps(document),
        "content_type": "application/problem+json",
        "headers": {"Retry-After": "2"} if status in (429, 503) else {},
    }


def stream(*blocks: str) -> Answer:
    """Server-sent events, and then the connection is cut."""
    return {"body": "".join(blocks), "content_type": "text/event-stream"}


def event(kind: str, cursor: str, **data: Any) -> str:
    document = {"event": kind, "session": ID, "data": data}
    return f"event: {kind}\ndata: {json.dumps(document)}\nid: {cursor}\n\n"


def in_minutes(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


ALIVE = {
    "id": ID,
    "state": "active",
    "expired": False,
    "expires_at": in_minutes(60),
    "erases_at": in_minutes(120),
    "options": [],
}
EXPIRED = ALIVE | {
    "expired": True,
    "expires_at": in_minutes(0),
    "rule": "idle",
    "recover_until": in_minutes(90),
    "options": [{"rel": "recover"}, {"rel": "create"}],
}


@dataclass
class Service:
    """What answers in place of Lapse. `answers` are by method and the end of the path."""

    page: Page
    asked: list[Request] = field(default_factory=list)
    answers: dict[tuple[str, str], Answering] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: Answer | Answering) -> None:
        """Answer so, one after the other, the last one ever after."""
        waiting = list(answers)

        def answer(request: Request) -> Answer:
            found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            return found(request) if callable(found) else found

        self.answers[method, path] = answer

    def requests(self, method: str, path: str) -> list[Request]:
        return [one for one in self.asked if one.method == method and one.url.endswith(path)]

    def counted(self, method: str, path: str) -> int:
        return len(self.requests(method, path))

    def handle(self, route: Route) -> None:
        request = route.request
        path = request.url.removeprefix(ORIGIN).partition("?")[0]
        if path == "/":
            route.fulfill(body="<!doctype html><title>test</title>", content_type="text/html")
            return
        if path == "/static/lapse.js":
            route.fulfill(path=CLIENT, content_type="text/javascript")
            return
        self.asked.append(request)
        for (method, end), answering in self.answers.items():
            if request.method == method and path.endswith(end):
                answer = answering(request)
                if answer:
                    route.fulfill(**answer)
                else:
                    route.abort("connectionreset")
                return
        route.fulfill(**problem(404, "not-found"))

    def run(self, script: str) -> Any:
        """What an async function in the page returns; `lapse`, `session` and `told` are there."""
        return self.page.evaluate(f"async () => {{ {script} }}")

    def wait(self, milliseconds: int) -> None:
        """Let so much time pass for the page."""
        self.page.clock.run_for(milliseconds)

    def asked_so_often(self, number: int, method: str, path: str, *, step: int = 1) -> None:
        """Let time pass step by step until it was asked so often, and no oftener."""
        self.waiting_until(lambda: self.counted(method, path) >= number, step)
        assert self.counted(method, path) == number

    def waiting_until(self, condition: Callable[[], bool], step: int = 1) -> None:
        """Let time pass step by step until it holds."""
        for _ in range(400):
            if condition():
                return
            self.wait(step)
            self.run("await 0")
        raise AssertionError("it never came")

    @property
    def told(self) -> list[Any]:
        """What the handlers were told, as [handler, argument]."""
        found: list[Any] = self.run("return told")
        return found

    @property
    def warnings(self) -> list[Any]:
        return [what for name, what in self.told if name == "Expiring"]

    def start(self) -> None:
        """Live, with the first look at the expiry done."""
        before = self.counted("GET", "/expiry")
        self.run("session.start()")
        self.asked_so_often(before + 1, "GET", "/expiry")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def service(browser: Browser) -> Iterator[Service]:
    """A page with a session of Ann's, whose time stands still."""
    with browser.new_context() as context, opened(context) as page:
        found = Service(page)
        page.clock.install(time=START - timedelta(hours=1))
        page.route("**/*", found.handle)
        page.goto(f"{ORIGIN}/")
        page.clock.pause_at(START)
        found.on("GET", "/expiry", ok(ALIVE))
        found.on("GET", ID, ok(ALIVE))
        found.on("GET", "/watch", stream("retry: 1000\n\n"))
        found.on("POST", "/seen", ok({"counted": 1}, 202))
        open_session(found)
        yield found


def open_session(service: Service) -> None:
    service.run(f"""
        window.lapse = await import('/static/lapse.js');
        window.session = lapse.connect({{ token: '{TOKEN}' }}).session('{ID}', '{ANN}');
        window.told = [];
        for (const name of ['Event', 'Expiring', 'Expired', 'Recovered', 'Erased', 'Error']) {{
          session[`on${{name}}`] = (what) => told.push([name, what?.kind ?? what?.message ?? what]);
        }}
    """)


CACHED = """
    window.loads ??= 0;
    return session.cached('result', async () => ({ number: ++loads, ...window.extra }));
"""
COPIES = "return Object.keys(localStorage)"


class TestCopies:
    """Results in the browser."""

    def test_a_result_is_asked_for_once_a_day(self, service: Service) -> None:
        """The copy answers for 24 hours, across reloads, and not a moment longer."""
        service.on("GET", ID, ok(ALIVE | {"erases_at": None}))
        assert service.run(CACHED)["number"] == 1
        service.wait(24 * HOUR - 1)
        assert service.run(CACHED)["number"] == 1
        assert service.run("return session.hasCopy('result')")
        service.page.reload()
        open_session(service)
        assert service.run(f"window.loads = 1; {CACHED}")["number"] == 1
        service.wait(1)
        assert service.run(CACHED)["number"] == 2

    def test_a_copy_never_outlives_its_erasure(self, service: Service) -> None:
        """It ends with the result's own `erases_at`, else with that of the session."""
        assert service.run(CACHED)["number"] == 1
        service.run(f"window.extra = {{ erases_at: '{in_minutes(30)}' }}")
        service.run("return session.cached('own', async () => ({ ...window.extra }))")
        service.wait(30 * MINUTE)
        assert not service.run("return session.hasCopy('own')")
        assert service.run("return session.hasCopy('result')")
        service.wait(90 * MINUTE)
        assert service.run(CACHED)["number"] == 2

    def test_a_page_that_connects_drops_what_is_too_old(self, service: Service) -> None:
        """Of any session, and nothing that is somebody else's."""
        service.run(CACHED)
        service.run("localStorage.setItem('theirs', '1')")
        service.run("localStorage.setItem('lapse:other:x', 'nonsense')")
        assert f"lapse:{ID}:result" in service.run(COPIES)
        service.wait(3 * HOUR)
        service.run("lapse.connect()")
        assert service.run(COPIES) == ["theirs", "lapse:other:x"]

    @pytest.mark.parametrize(
        ("kind", "scope", "stay"),
        [
            ("erased", "chunks", ["figures", "items"]),
            ("erased", "full", ["figures"]),
            ("summarized", "full", ["figures"]),
            ("erased", "summary", ["items"]),
            ("reset", "", []),
        ],
    )
    def test_copies_are_dropped_when_data_is_erased(
        self, service: Service, kind: str, scope: str, stay: list[str]
    ) -> None:
        """Pushed by the stream: those of the tier, and those that say none; not of others."""
        service.run(CACHED)
        for name, tier in (("figures", "summary"), ("items", "full")):
            service.run(f"await session.cached('{name}', async () => ({{ tier: '{tier}' }}))")
        other = "lapse.connect().session('f'.repeat(32), null)"
        later = in_minutes(60)
        service.run(f"return {other}.cached('x', async () => ({{ erases_at: '{later}' }}))")
        service.on("GET", "/watch", stream(event(kind, "e:1", scope=scope)), problem(404, "x"))
        service.start()
        service.waiting_until(lambda: ["Event", kind] in service.told)
        kept = [f"lapse:{ID}:{name}" for name in stay] + [f"lapse:{'f' * 32}:x"]
        assert sorted(service.run(COPIES)) == kept
        assert ["Erased", None] not in service.told

    def test_what_is_loaded_while_data_is_erased_is_not_kept(self, service: Service) -> None:
        """It would be a copy of what is gone."""
        service.on("DELETE", ID, {"status": 204})
        service.run("""
            const slow = new Promise((resolve) => { window.finish = resolve; });
            window.loading = session.cached('late', () => slow);
            await session.erase();
            finish({ erases_at: null });
            await loading;
        """)
        assert service.run(COPIES) == []

    def test_a_full_storage_costs_the_copy_and_nothing_else(self, service: Service) -> None:
        """The result comes all the same."""
        service.run("localStorage.setItem('big', 'x'.repeat(5 * 1024 * 1024 - 10))")
        assert service.run(CACHED)["number"] == 1
        assert service.run(CACHED)["number"] == 2

    def test_a_summary_is_kept_once_it_is_final(self, service: Service) -> None:
        """While data comes in it changes, so it is asked for each time."""
        summary = {"tier": "full", "figures": {"n": 1}, "erases_at": in_minutes(30)}
        service.on("GET", "/summary", ok(summary), ok(summary | {"tier": "summary"}))
        for expected in ("full", "summary", "summary"):
            assert service.run("return session.summary()")["tier"] == expected
        assert len(service.requests("GET", "/summary")) == 2


class TestLive:
    """The stream, heartbeats, the look every five minutes."""

    def test_a_cut_stream_goes_on_behind_its_last_event(self, service: Service) -> None:
        """Half an event is none; it comes whole the second time, and nothing comes twice."""
        half = 'event: left\ndata: {"event": "left"'
        service.on(
            "GET",
            "/watch",
            stream("retry: 1000\n\n", event("joined", "e:7"), event("seen", "e:8"), half),
            stream(": still here\n\n", event("left", "e:9")),
            problem(503, "busy"),
        )
        service.start()
        service.asked_so_often(3, "GET", "/watch", step=200)
        ids = [one.headers.get("last-event-id") for one in service.requests("GET", "/watch")]
        assert ids[:3] == [None, "e:8", "e:9"]
        events = [what for name, what in service.told if name == "Event"]
        assert events == ["joined", "seen", "left"]

    def test_a_session_that_is_started_again_goes_on_where_it_was(self, service: Service) -> None:
        """What happened while it was stopped comes first; without a hole."""
        service.on("GET", "/watch", stream(event("joined", "e:7")), {})
        service.start()
        service.waiting_until(lambda: ["Event", "joined"] in service.told)
        service.run("session.stop()")
        asked = service.counted("GET", "/watch")
        service.wait(MINUTE)
        service.run("await 0")
        assert service.counted("GET", "/watch") == asked
        service.on("GET", "/watch", stream(event("left", "e:8")), {})
        service.start()
        service.waiting_until(lambda: ["Event", "left"] in service.told)
        assert service.requests("GET", "/watch")[asked].headers["last-event-id"] == "e:7"

    def test_an_id_without_an_event_is_remembered(self, service: Service) -> None:
        """As HTML says: the block moves the id and tells nothing."""
        service.on("GET", "/watch", stream("id: e:5\n\n"), problem(503, "busy"))
        service.start()
        service.asked_so_often(2, "GET", "/watch", step=200)
        assert service.requests("GET", "/watch")[1].headers["last-event-id"] == "e:5"
        assert service.told == []

    def test_events_may_be_cut_anywhere_on_their_way(self, service: Service) -> None:
        """At any byte, inside a letter or a line's end; with any of the three line ends."""
        found = service.run("""
            const text = ': hello\\r\\nevent: joined\\rdata: {"data":\\ndata: "ü"}\\n'
              + 'id: 1\\r\\n\\r\\n'
              + 'event: left\\ndata:{"data":1}\\nid\\n\\n';
            const bytes = new TextEncoder().encode(text);
            const real = window.fetch;
            const all = [];
            for (let cut = 0; cut <= bytes.length; cut += 1) {
              const heard = [];
              const over = new AbortController();
              window.fetch = async () => new Response(new ReadableStream({
                start(stream) {
                  stream.enqueue(bytes.slice(0, cut));
                  stream.enqueue(bytes.slice(cut));
                  stream.close();
                },
              }));
              session.onEvent = ({ kind, id, data }) => {
                heard.push([kind, id, data.data]);
                if (heard.length === 2) over.abort();
              };
              await session.watch({ signal: over.signal }).catch(() => null);
              all.push(JSON.stringify(heard));
            }
            window.fetch = real;
            return [...new Set(all)].map((one) => JSON.parse(one));
        """)
        assert found == [[["joined", "1", "ü"], ["left", "", 1]]]

    def test_a_stream_that_says_nothing_is_opened_again(self, service: Service) -> None:
        """Without a comment for 45 s the connection is dead, whatever the network says."""
        service.run("""
            window.opened = 0;
            const real = window.fetch;
            window.fetch = (url, { signal, ...rest }) => {
              if (!String(url).endsWith('/watch')) return real(url, { signal, ...rest });
              opened += 1;
              return Promise.resolve(new Response(new ReadableStream({
                start(stream) {
                  signal.addEventListener('abort', () => stream.error(signal.reason));
                },
              })));
            };
        """)
        service.start()
        service.wait(44 * SECOND)
        assert service.run("return opened") == 1
        service.waiting_until(lambda: service.run("return opened") == 2, 500)
        service.run("session.stop()")

    def test_the_expiry_is_looked_at_every_five_minutes(self, service: Service) -> None:
        """At once and then on time; what is over is told once, with what can be done."""
        service.on("GET", "/watch", {})  # the stream never comes
        service.start()
        for number in range(1, 4):
            service.wait(5 * MINUTE - 100)
            assert service.counted("GET", "/expiry") == number
            service.asked_so_often(number + 1, "GET", "/expiry", step=50)
        service.on("GET", "/expiry", ok(EXPIRED))
        for number in (5, 6):
            service.wait(5 * MINUTE)
            service.asked_so_often(number, "GET", "/expiry")
        service.waiting_until(lambda: any(one[0] == "Expired" for one in service.told))
        [[_, told]] = [one for one in service.told if one[0] == "Expired"]
        assert told["rule"] == "idle"
        assert [option["rel"] for option in told["options"]] == ["recover", "create"]

    def test_a_look_finds_the_erasure_and_drops_the_copies(self, service: Service) -> None:
        """Also when the stream was never heard; then nothing is asked any more."""
        service.run(CACHED)
        service.on("GET", "/watch", {})
        service.on("GET", "/expiry", problem(410, "session-erased"))
        service.run("session.start()")
        service.waiting_until(lambda: ["Erased", None] in service.told)
        assert service.run(COPIES) == []
        asked = len(service.asked)
        service.wait(10 * MINUTE)
        service.run("await 0")
        assert len(service.asked) == asked

    def test_a_heartbeat_every_thirty_seconds_until_it_is_over(self, service: Service) -> None:
        """With the participant's token; after a 410 none, after a recovery again."""
        service.start()
        service.asked_so_often(1, "POST", "/seen")
        for number in (2, 3, 4):
            service.wait(30 * SECOND)
            service.asked_so_often(number, "POST", "/seen")
        over = problem(410, "session-expired", rule="idle", options=[{"rel": "create"}])
        service.on("POST", "/seen", over)
        service.on("GET", "/expiry", ok(EXPIRED))
        service.wait(30 * SECOND)
        service.waiting_until(lambda: "Expired" in [name for name, _ in service.told], 1)
        service.wait(2 * MINUTE)
        assert service.counted("POST", "/seen") == 5
        service.on("POST", "/seen", ok({"counted": 1}, 202))
        service.on("GET", "/expiry", ok(ALIVE))
        service.run("await session.check()")
        assert service.told[-1] == ["Recovered", None]
        service.wait(30 * SECOND)
        service.asked_so_often(6, "POST", "/seen")

    def test_a_warning_is_told_once_per_deadline(self, service: Service) -> None:
        """Whether the policy's event, the service's notice or the look says so first."""
        deadline = START + timedelta(minutes=60)
        policy = event("expiring", "e:1", deadline=round(deadline.timestamp() * 1_000_000))
        notice = f'event: expiring\ndata: {{"deadline": "{deadline.isoformat()}"}}\n\n'
        later = event(
            "expiring", "e:2", deadline=round(deadline.timestamp() * 1_000_000) + 60_000_000
        )
        service.on("GET", "/watch", stream(policy, notice, later), problem(503, "busy"))
        service.start()
        service.waiting_until(lambda: len(service.warnings) == 2)
        service.wait(56 * MINUTE)
        service.run("await session.check()")
        assert len(service.warnings) == 2
        service.on("GET", "/expiry", ok(ALIVE | {"expires_at": in_minutes(59)}))
        service.run("await session.check()")
        assert [one["deadline"][:16] for one in service.warnings][2:] == ["2026-11-22T12:59"]

    def test_a_handler_that_fails_stops_nothing(self, service: Service) -> None:
        """Its error is reported as any script's; the next event still comes."""
        service.run("""
            window.reported = [];
            addEventListener('error', (event) => {
              reported.push(event.message);
              event.preventDefault();
            });
            window.reportError = (error) => reported.push(error.message);
            const tell = session.onEvent;
            session.onEvent = (event) => { tell(event); throw new Error('of the page'); };
        """)
        service.on("GET", "/watch", stream(event("joined", "e:1"), event("left", "e:2")), {})
        service.start()
        service.waiting_until(lambda: ["Event", "left"] in service.told)
        assert service.run("return reported") == ["of the page"] * 2


class TestAsking:
    """Tokens, refusals, asking again."""

    def test_an_invite_leaves_the_address_bar_and_no_token_is_in_an_address(
        self, service: Service
    ) -> None:
        """It is sent in a header, and so is the token that it is exchanged for."""
        came = {"session": ID, "token": ANN, "access_token": "of-ann"}
        service.on("POST", "/v1/invites/redeem", ok(came, 201))
        service.page.goto(f"{ORIGIN}/?room=1#invite=of-an-invite")
        open_session(service)
        service.run("""
            const me = await lapse.connect().redeem({ name: 'Ann' });
            await me.view();
        """)
        assert service.page.url == f"{ORIGIN}/?room=1"
        [redeemed] = service.requests("POST", "/v1/invites/redeem")
        assert redeemed.headers["authorization"] == "Bearer of-an-invite"
        assert redeemed.post_data_json == {"name": "Ann"}
        [viewed] = service.requests("GET", ID)
        assert viewed.headers["authorization"] == "Bearer of-ann"
        for request in service.asked:
            assert not re.search("of-an", request.url)
        assert service.run(COPIES) == []

    def test_a_refusal_says_what_can_be_done(self, service: Service) -> None:
        """Type, status and options, as the service sent them."""
        options = [{"rel": "ask-for-an-invite"}]
        over = problem(410, "invite-expired", reason="session-expired", options=options)
        service.on("POST", "/v1/invites/redeem", over)
        found = service.run("""
            try { await lapse.connect().redeem({ invite: 'x' }); } catch (error) {
              return [error instanceof lapse.LapseError, error.is('invite-expired'), error.status,
                      error.options, error.problem.reason];
            }
        """)
        assert found == [True, True, 410, options, "session-expired"]
        assert len(service.requests("POST", "/redeem")) == 1

    def test_what_is_busy_is_asked_again_when_it_says_so(self, service: Service) -> None:
        """Not before `Retry-After`; a command keeps its idempotency key."""
        service.on("POST", "/extend", problem(503, "busy"), {}, ok(ALIVE))
        service.run("window.extending = session.extend(new Date()); await 0")
        service.asked_so_often(1, "POST", "/extend")
        service.wait(1_900)
        service.run("await 0")
        assert service.counted("POST", "/extend") == 1
        service.asked_so_often(3, "POST", "/extend", step=500)
        assert service.run("return (await extending).id") == ID
        extended = service.requests("POST", "/extend")
        assert len({one.headers["idempotency-key"] for one in extended}) == 1

    @pytest.mark.parametrize(
        ("answer", "asked"),
        [
            (problem(429, "rate"), 6),
            (problem(429, "limit-concurrent"), 1),
            (problem(409, "not-allowed"), 1),
            ({}, 6),
        ],
    )
    def test_what_cannot_help_is_not_asked_again(
        self, service: Service, answer: Answer, asked: int
    ) -> None:
        """A limit of the policy stays reached; a rate passes; six times at most."""
        service.on("GET", ID, answer)
        service.run("""
            window.failed = null;
            session.view().catch((error) => { failed = error.status; });
        """)
        service.waiting_until(lambda: service.run("return failed") is not None, 5 * SECOND)
        assert len(service.requests("GET", ID)) == asked

    def test_records_are_not_stored_twice(self, service: Service) -> None:
        """A POST whose answer was lost goes out again under the same key, or not at all."""
        service.on("POST", "/items", {}, ok({"id": "i1"}, 201))
        service.run("window.storing = session.store('landmarks', [{ x: 1 }]); await 0")
        service.asked_so_often(2, "POST", "/items", step=200)
        assert service.run("return (await storing).id") == "i1"
        stored = service.requests("POST", "/items")
        assert len({one.headers["idempotency-key"] for one in stored}) == 1
        assert json.loads(stored[0].post_data or "")["participants"] == [ANN]
        service.on("POST", "/invites", {})
        status = service.run("return session.invite().catch((error) => error.status)")
        assert (status, service.counted("POST", "/invites")) == (0, 1)

    def test_a_token_may_be_fetched_when_it_is_needed(self, service: Service) -> None:
        """For pages that live longer than a token."""
        service.run(f"""
            let number = 0;
            const fresh = lapse.connect({{ token: async () => `fresh-${{++number}}` }});
            await fresh.session('{ID}').view();
            await fresh.session('{ID}').view();
        """)
        sent = [one.headers["authorization"] for one in service.requests("GET", ID)]
        assert sent == ["Bearer fresh-1", "Bearer fresh-2"]


CHUNK = 1_048_576
UPLOAD = {"id": "u1", "chunk_size": CHUNK, "chunks": 5, "received": [], "complete": False}
FILE = f"window.file = new Blob([new Uint8Array({4 * CHUNK + 100}).map((_, i) => i % 251)])"
CONTENT = bytes(i % 251 for i in range(4 * CHUNK + 100))


def chunk_of(index: int) -> bytes:
    return CONTENT[index * CHUNK : (index + 1) * CHUNK]


class TestUpload:
    """Chunks: three at a time, checked, resumable."""

    def begin(self, service: Service, **found: Any) -> None:
        service.run(FILE)
        service.on("POST", "/uploads", ok(UPLOAD, 201))
        done = UPLOAD | {"complete": True, "received": [0, 1, 2, 3, 4]}
        service.on("GET", "/uploads/u1", *[ok(UPLOAD | one) for one in found.values()], ok(done))
        for index in range(5):
            service.on("PUT", f"/chunks/{index}", ok({"index": index}, 201))

    def test_a_file_is_sent_whole_in_chunks_with_their_hashes(self, service: Service) -> None:
        """The bytes, their SHA-256 and the progress are those of the file."""
        self.begin(service)
        told = service.run("""
            const told = [];
            const done = await session.upload(file, { onProgress: ({ sent }) => told.push(sent) });
            return [done.complete, told];
        """)
        assert told[0] is True
        assert (told[1][0], told[1][-1]) == (0, len(CONTENT))
        assert told[1] == sorted(told[1])
        for index in range(5):
            [put] = service.requests("PUT", f"/chunks/{index}")
            body = put.post_data_buffer
            assert body == chunk_of(index)
            digest = base64.b64encode(hashlib.sha256(chunk_of(index)).digest()).decode()
            assert put.headers["content-digest"] == f"sha-256=:{digest}:"
        [begun] = service.requests("POST", "/uploads")
        assert begun.post_data_json == {
            "kind": "video",
            "size": len(CONTENT),
            "media_type": None,
            "participants": [ANN],
        }

    def test_what_the_service_has_is_not_sent_again(self, service: Service) -> None:
        """By the upload's id, also from another page and after days."""
        self.begin(service, first={"received": [0, 2, 4]})
        told = service.run("""
            const told = [];
            await session.upload(file, { upload: 'u1', onProgress: ({ sent }) => told.push(sent) });
            return told;
        """)
        sent = {one.url.rpartition("/")[2] for one in service.asked if one.method == "PUT"}
        assert sent == {"1", "3"}
        assert told[0] == 2 * CHUNK + 100
        assert service.requests("POST", "/uploads") == []

    def test_a_chunk_that_fails_is_sent_again(self, service: Service) -> None:
        """A cut connection and a busy service cost time only."""
        self.begin(service)
        service.on("PUT", "/chunks/1", {}, problem(503, "busy"), ok({}, 201))
        service.run("""
            window.done = null;
            session.upload(file).then(({ complete }) => { done = complete; });
        """)
        service.waiting_until(lambda: service.run("return done") is True, 500)
        assert len(service.requests("PUT", "/chunks/1")) == 3
        assert len(service.requests("PUT", "/chunks/0")) == 1

    def test_a_refused_chunk_ends_the_upload(self, service: Service) -> None:
        """No other chunk is begun after it."""
        self.begin(service)
        service.on("PUT", "/chunks/0", problem(413, "limit-bytes"))
        service.on("PUT", "/chunks/1", {})  # tried again, until the other was refused
        service.on("PUT", "/chunks/2", {})
        found = service.run("""
            return session.upload(file).catch((error) => error.is('limit-bytes'));
        """)
        assert found is True
        asked = len(service.asked)
        service.wait(MINUTE)
        service.run("await 0")
        assert len(service.asked) == asked

    def test_an_upload_can_be_stopped(self, service: Service) -> None:
        """By an AbortSignal; what was sent can be gone on with."""
        self.begin(service)
        name = service.run("""
            const stop = new AbortController();
            const onProgress = ({ sent }) => sent > 0 && stop.abort();
            return session.upload(file, { signal: stop.signal, onProgress })
              .catch((error) => error.name);
        """)
        assert name == "AbortError"
        assert len([one for one in service.asked if one.method == "PUT"]) < 5

    def test_three_chunks_at_a_time(self, service: Service) -> None:
        """Never more on their way at once, and no fewer while there are."""
        self.begin(service)
        most = service.run("""
            let now = 0;
            let most = 0;
            const real = window.fetch;
            window.fetch = async (url, request) => {
              if (request.method !== 'PUT') return real(url, request);
              now += 1;
              most = Math.max(most, now);
              const answer = await real(url, request);
              now -= 1;
              return answer;
            };
            await session.upload(file);
            return most;
        """)
        assert most == 3
