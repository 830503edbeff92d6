"""What those who watch are told, and when."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import current_thread
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from adapters.http.cursors import cursor
from adapters.http.feed import Feed, Passing
from adapters.http.server import bind, serving, url_of
from adapters.http.tokens import Role
from domain.policy import DAY, HOUR, MINUTE, SECOND
from tests.adapters.http.conftest import Site
from tests.servers import PostgresServer, wait_until
from tests.streams import PATIENCE, socket, watching


def test_a_session_is_watched_to_its_end(site: Site, live: str) -> None:
    """Joined, expiring, expired, erased as they come; then the stream ends."""
    session = site.session()
    with watching(live, f"/v1/sessions/{session}/watch", site.token("producer")) as events:
        site.join(session)
        assert events.next()[0] == "joined"
        site.wait(50 * MINUTE)
        site.sweep()
        name, data = events.next()
        assert (name, data["session"]) == ("expiring", session)
        site.wait(10 * MINUTE)
        site.sweep()
        name, data = events.next()
        assert (name, data["data"]["rule"]) == ("expired", "expire-last_seen")
        site.wait(DAY)
        site.sweep()
        assert events.next()[0] == "erased"
        with pytest.raises(EOFError):
            events.next()


def test_the_end_is_told_a_minute_before_whatever_the_policy_says(site: Site, live: str) -> None:
    """`video-analysis` warns of nothing itself; its watchers learn it once, and can extend."""
    session = site.session("video-analysis")
    with watching(live, f"/v1/sessions/{session}/watch", site.token("producer")) as events:
        site.wait(8 * MINUTE + 56 * SECOND)
        site.join(session)
        told = dict([events.next(), events.next()])
        assert set(told) == {"joined", "expiring"}
        assert told["expiring"]["deadline"] == "2026-01-01T00:10:00.000Z"
        [option] = told["expiring"]["options"]
        site.ask("POST", option["path"], {"until": "2026-01-01T01:00:00Z"})
        assert events.names(1) == ["extended"]
        site.join(session, "bob")
        assert events.names(1) == ["joined"]


@pytest.mark.row("P3.3")
def test_progress_is_told_and_kept_nowhere(site: Site, live: str) -> None:
    """P3's notifications with type, data and time; undeclared kinds and long texts are refused."""
    session = site.session("video-analysis")
    path = f"/v1/sessions/{session}"
    with watching(live, f"{path}/watch", site.token("producer")) as events:
        for kind in ("chunk_received", "frames_extracted", "analysis_complete"):
            body = {"type": kind, "data": {"chunk": 3, "of": 10}}
            site.ask("POST", f"{path}/progress", body, expect=202)
            name, data = events.next()
            assert (name, data["type"], data["data"]) == (kind, kind, {"chunk": 3, "of": 10})
            assert data["at"] == "2026-01-01T00:00:00.000Z"
    refused = {"type": "gossip", "data": {}}
    problem = site.ask("POST", f"{path}/progress", refused, expect=422)
    assert problem["type"].endswith("progress-unknown")
    for wrong in ({"x": "y" * 201}, {"x": [1]}, {"X Y": 1}):
        site.ask("POST", f"{path}/progress", {"type": "error", "data": wrong}, expect=422)
    assert site.lapse.log.head() == site.lapse.log.history(session)[-1].position


class TestInstances:
    """Several on one database, which then is PostgreSQL."""

    @pytest.fixture(params=["postgresql"])
    def database_url(self, postgres_server: PostgresServer) -> Iterator[str]:
        url = postgres_server.create_database()
        yield url
        postgres_server.drop_database(url)

    def test_progress_reaches_those_who_watch_at_another_instance(
        self, site: Site, live: str
    ) -> None:
        """Any instance may be told."""
        session = site.session("video-analysis")
        path = f"/v1/sessions/{session}"
        with (
            Feed(
                site.lapse.log, site.lapse.engines, site.lapse.keyring.shared_key("progress")
            ) as other,
            watching(live, f"{path}/watch", site.token("producer")) as events,
        ):
            other.publish(Passing("error", session, "video-analysis", site.now, {"code": 7}))
            name, data = events.next()
            assert (name, data["data"]) == ("error", {"code": 7})


def test_who_comes_again_misses_nothing(site: Site, live: str) -> None:
    """`Last-Event-ID`: what happened in between comes first, in order, once."""
    session = site.session()
    path, token = f"/v1/sessions/{session}/watch", site.token("producer")
    with watching(live, path, token) as events:
        site.join(session, "v0")
        events.next()
        last = events.last_id
    for n in range(1, 5):
        site.join(session, f"v{n}")
    assert last is not None
    with watching(live, path, token, Last_Event_ID=last) as events:
        site.join(session, "v5")
        assert events.names(5) == ["joined"] * 5


def test_who_is_cut_off_before_the_first_event_misses_nothing(site: Site, live: str) -> None:
    """The stream says where it begins before anything happened."""
    session = site.session()
    path, token = f"/v1/sessions/{session}/watch", site.token("producer")
    with watching(live, path, token) as events:
        begun = events.begin()
    site.join(session)
    with watching(live, path, token, Last_Event_ID=begun) as events:
        assert events.names(1) == ["joined"]


def test_a_cursor_of_another_log_is_reset(site: Site, live: str) -> None:
    """The client is told the earliest position there is, and then everything."""
    session = site.session()
    path = f"/v1/sessions/{session}/watch"
    with watching(live, path, site.token("producer"), Last_Event_ID="nonsense") as events:
        assert events.next() == ("reset", {"earliest": 1})
        assert events.names(1) == ["created"]


def test_a_cursor_keeps_nobody_else_waiting(
    site: Site, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is asked only for a cursor beyond what was read, and never where all requests
    are served; one beyond the end of the log is reset."""
    session = site.session()
    path, token = f"/v1/sessions/{session}/watch", site.token("producer")
    with watching(live, path, token, Last_Event_ID=cursor("test", 0)) as events:
        events.next()
        known = events.last_id
    head = site.lapse.log.head
    asked: list[str] = []

    def watched_head() -> int:
        asked.append(current_thread().name)
        return head()

    monkeypatch.setattr(site.lapse.log, "head", watched_head)
    assert known is not None
    with watching(live, path, token, Last_Event_ID=known):
        assert asked == []
    with watching(live, path, token, Last_Event_ID=cursor("test", 10**6)) as events:
        assert events.next()[0] == "reset"
    assert len(asked) == 1
    assert "lapse-http" not in asked


@pytest.mark.row("G3")
def test_what_is_over_cannot_be_watched(site: Site, live: str) -> None:
    """410 at the due instant, with no sweep."""
    session = site.session()
    site.wait(HOUR)
    path, token = f"/v1/sessions/{session}/watch", site.token("producer")
    with watching(live, path, token, expect=410):
        pass


def test_the_whole_log_or_a_part_of_it(site: Site, live: str) -> None:
    """For services: everything, one policy's, or what their token is for."""
    path = "/v1/events/stream"
    with (
        watching(live, path, site.token("subscriber")) as everything,
        watching(live, f"{path}?policy=web-visit", site.token("subscriber")) as one,
        watching(live, path, site.token("subscriber", "web-visit")) as mine,
    ):
        room, visit = site.session("reading-room"), site.session("web-visit")
        assert [everything.next()[1]["session"] for _ in range(2)] == [room, visit]
        assert one.next()[1]["session"] == mine.next()[1]["session"] == visit


def test_a_participant_is_seen_over_a_websocket(site: Site, live: str) -> None:
    """Heartbeats one way, events the other; the token never stands in a URL."""
    session = site.session()
    ann = site.join(session, "ann")
    with socket(live, f"/v1/sessions/{session}/watch", ann["access_token"]) as connection:
        assert connection.subprotocol == "lapse"
        site.wait(7 * MINUTE)
        connection.send('{"seen": true}')
        message = json.loads(connection.recv(timeout=PATIENCE))
        assert message["event"] == "seen"
    [member] = site.lapse.vault.members(session)
    assert member.last_seen_at == site.now


def test_a_websocket_without_a_token_is_refused(site: Site, live: str) -> None:
    """Before anything is sent; so is one with a token for another session."""
    session, other, over = site.session(), site.session(), site.session("video-analysis")
    ann = site.join(other, "ann")["access_token"]
    site.wait(10 * MINUTE)
    for id_, token, code in (
        (session, "nonsense", 4401),
        (session, ann, 4403),
        (over, site.token("producer"), 4410),
        ("0" * 32, site.token("producer"), 4404),
    ):
        with (
            pytest.raises(ConnectionClosed) as refused,
            socket(live, f"/v1/sessions/{id_}/watch", token) as connection,
        ):
            connection.recv(timeout=PATIENCE)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == code


def test_streams_end_in_order_when_the_service_stops(site: Site) -> None:
    """What is known was sent, and nobody waits for anybody."""
    session = site.session()
    listening = bind("127.0.0.1", 0)
    app: Any = site.client.app
    with ExitStack() as stack:
        service = stack.enter_context(ExitStack())
        service.enter_context(serving(app, listening, app.state.feed.end))
        path, token = f"/v1/sessions/{session}/watch", site.token("producer")
        events = stack.enter_context(watching(url_of(listening), path, token))
        site.join(session)
        service.close()
        assert events.next()[0] == "joined"
        with pytest.raises(EOFError):
            events.next()


def test_heartbeats_of_many_are_written_together(site: Site, live: str) -> None:
    """One by one over HTTP, each answered once it is committed."""
    session = site.session()
    tokens = [site.join(session, f"v{n}")["access_token"] for n in range(20)]
    site.wait(MINUTE)

    def beat(token: str) -> int:
        answer = httpx2.post(
            f"{live}/v1/sessions/{session}/seen",
            json={},
            headers={"Authorization": f"Bearer {token}"},
            timeout=PATIENCE,
        )
        return answer.status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(beat, tokens)) == {202}
    assert {one.last_seen_at for one in site.lapse.vault.members(session)} == {site.now}


def test_a_watcher_sleeps_while_others_are_appended(site: Site) -> None:
    """Only what it watches wakes it; it is still not behind the log."""
    session = site.session()
    app: Any = site.client.app
    feed: Feed = app.state.feed

    async def watch() -> None:
        wait_until(lambda: feed.head == site.lapse.log.head(), 10, "the feed")
        watcher = feed.watch(
            lambda recorded: recorded.event.originator_id == session, lambda note: False, session
        )
        watcher.position = feed.head
        for _ in range(3):
            site.session()
        wait_until(lambda: watcher.position == site.lapse.log.head(), 10, "the feed")
        await asyncio.sleep(0)
        assert not watcher.woken.is_set()
        site.lapse.sessions.complete(session, site.now, "test")
        await asyncio.wait_for(watcher.woken.wait(), 10)
        assert watcher.position < feed.head

    asyncio.run(watch())


def test_a_stream_ends_with_its_token(site: Site, live: str) -> None:
    """What happens afterwards is for whoever comes with another one."""
    session = site.session()
    tokens = site.service.tokens
    short = tokens.mint(Role.PRODUCER, MINUTE, "short-lived")
    with watching(live, f"/v1/sessions/{session}/watch", short) as events:
        site.join(session)
        assert events.names(1) == ["joined"]
        site.wait(MINUTE)
        site.ask("POST", f"/v1/sessions/{session}/complete")
        with pytest.raises(EOFError):
            events.next()


def test_a_socket_leaves_an_entry_of_who_watched(site: Site, live: str) -> None:
    """As every request does, with how long it was open."""
    session = site.session()
    with socket(live, f"/v1/sessions/{session}/watch", site.token("producer")):
        site.join(session)
    path = f"/v1/audit/requests?session={session}"

    def watched() -> bool:
        found = site.ask("GET", path, role="auditor")["requests"]
        return any(one["status"] == 101 and one["path"].endswith("/watch") for one in found)

    wait_until(watched, PATIENCE, "the entry")
