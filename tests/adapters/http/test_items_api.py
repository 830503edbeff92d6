"""What sessions store, over HTTP: items, uploads, summaries; sealed, hidden and gone on time."""

import math
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from domain.policy import HOUR, MINUTE, SECOND
from domain.use_cases.items import CHUNK
from tests.acceptance import databases
from tests.adapters.http.conftest import Site

CANARY = "canary-7f3a-left-hip"


def records(*stillness: float) -> list[dict[str, Any]]:
    return [{"stillness": one, "joint": CANARY} for one in stillness]


def store(site: Site, session: str, *stillness: float, **body: Any) -> Any:
    body = {"kind": "landmarks", "records": records(*stillness), **body}
    return site.ask("POST", f"/v1/sessions/{session}/items", body, expect=201)


def send(
    site: Site, path: str, chunk: bytes, expect: int = 201, digest: bytes | None = None
) -> Any:
    checksum = b64encode(sha256(chunk).digest() if digest is None else digest).decode()
    answer = site.client.put(
        path,
        content=chunk,
        headers={
            "Authorization": f"Bearer {site.token('producer')}",
            "Content-Digest": f"sha-256=:{checksum}:",
        },
    )
    assert answer.status_code == expect, answer.text
    return answer.json()


def upload(site: Site, session: str, content: bytes, media_type: str = "video/mp4") -> Any:
    body = {"kind": "video", "size": len(content), "media_type": media_type}
    return site.ask("POST", f"/v1/sessions/{session}/uploads", body, expect=201)


class TestItems:
    """Records and bytes under a tier's own term."""

    def test_records_come_back_as_they_were_stored(self, site: Site) -> None:
        """With when they end, the rule and the policy version; the list shows no content."""
        session = site.session("biometric-coach")
        stored = store(site, session, 0.5, 0.7)
        assert (stored["tier"], stored["count"], stored["rule"]) == (
            "full",
            2,
            "summarize-created",
        )
        path = f"/v1/sessions/{session}/items"
        shown = site.ask("GET", f"{path}/{stored['id']}")
        assert shown["records"] == records(0.5, 0.7)
        assert {key: shown[key] for key in stored} == stored
        assert site.ask("GET", path) == {"items": [stored], "next": None}

    def test_bytes_come_back_with_their_type_and_run_in_no_browser(self, site: Site) -> None:
        """A page somebody stored is a download."""
        session = site.session("reading-room")
        headers = {"Authorization": f"Bearer {site.token('producer')}", "Content-Type": "text/html"}
        path = f"/v1/sessions/{session}/items"
        made = site.client.post(f"{path}?kind=page", content=b"<script>", headers=headers)
        assert made.status_code == 201, made.text
        found = site.client.get(made.headers["location"], headers=headers)
        assert found.content == b"<script>"
        assert found.headers["content-type"].startswith("text/html")
        assert found.headers["content-security-policy"].startswith("sandbox")
        assert found.headers["content-disposition"] == "attachment"

    def test_pages_of_items_follow_each_other(self, site: Site) -> None:
        """Each item once, in any size of page; of one kind, if asked."""
        session = site.session("biometric-coach")
        stored = {store(site, session, 0.1)["id"] for _ in range(5)}
        stored |= {store(site, session, 0.1, kind="metrics")["id"]}
        seen, after = [], ""
        while True:
            query = f"?limit=2&after={after}" if after else "?limit=2"
            page = site.ask("GET", f"/v1/sessions/{session}/items{query}")
            seen += [one["id"] for one in page["items"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert sorted(seen) == sorted(stored)
        [metric] = site.ask("GET", f"/v1/sessions/{session}/items?kind=metrics")["items"]
        assert metric["kind"] == "metrics"

    def test_the_same_key_stores_once(self, site: Site) -> None:
        """A producer retries: the same item, counted once."""
        session = site.session("biometric-coach")
        body = {"kind": "landmarks", "records": records(0.5)}
        path = f"/v1/sessions/{session}/items"
        first = site.ask("POST", path, body, expect=201, Idempotency_Key="k")
        again = site.ask("POST", path, body, expect=201, Idempotency_Key="k")
        assert first == again
        assert len(site.ask("GET", path)["items"]) == 1

    def test_a_participant_stores_what_is_about_them(self, site: Site) -> None:
        """Under a key of their own, and about nobody else but whom their records name."""
        session = site.session("biometric-coach")
        ann, bob = site.join(session, "ann"), site.join(session, "bob")
        path = f"/v1/sessions/{session}/items"
        body = {"kind": "landmarks", "records": records(0.5)}
        stored = site.ask("POST", path, body, token=ann["access_token"], expect=201)
        assert stored["participants"] == [ann["token"]]
        naming = {**body, "records": [{"participant": bob["token"]}]}
        shared = site.ask("POST", path, naming, token=ann["access_token"], expect=201)
        assert shared["participants"] == [ann["token"], bob["token"]]
        other = {**body, "participants": [bob["token"]]}
        site.ask("POST", path, other, token=ann["access_token"], expect=403)
        site.ask("POST", path, {**body, "participants": ["0" * 32]}, expect=404)

    def test_nothing_of_it_stands_in_the_database(self, site: Site) -> None:
        """Neither the content nor a name of it, in any table."""
        session = site.session("biometric-coach")
        ann = site.join(session, "ann")
        store(site, session, 0.5, participants=[ann["token"]])
        store(site, session, 0.5)
        url = site.lapse.settings.database_url
        assert databases.holds(url, session.encode())  # what is written can be found
        assert not databases.holds(url, CANARY.encode())

    @pytest.mark.row("G3")
    @pytest.mark.row("P1.1")
    def test_items_are_hidden_at_their_instant(self, site: Site) -> None:
        """Nobody sweeps: at five minutes the full tier is gone from every answer."""
        session = site.session("biometric-coach")
        stored = store(site, session, 0.5)
        path = f"/v1/sessions/{session}/items"
        site.wait(5 * MINUTE - 1_000)
        assert site.ask("GET", f"{path}/{stored['id']}")["records"]
        site.wait(1_000)
        problem = site.ask("GET", f"{path}/{stored['id']}", expect=410)
        assert problem["type"] == "urn:lapse:problem:item-erased"
        assert site.ask("GET", path)["items"] == []
        site.ask("POST", path, {"kind": "landmarks", "records": records(1.0)}, expect=409)

    @pytest.mark.parametrize(
        "body",
        [
            {"kind": "landmarks", "records": []},
            {"kind": "Left Hip", "records": [{}]},
            {"kind": "landmarks", "records": [{}], "tier": "everything"},
            {"kind": "landmarks", "records": [1]},
            {"kind": "landmarks", "records": [{}], "secret": CANARY},
            {"kind": "landmarks"},
        ],
    )
    def test_other_bodies_are_refused_without_an_echo(self, site: Site, body: Any) -> None:
        """422, with the place and never with what was sent; nothing is stored."""
        session = site.session("biometric-coach")
        problem = site.ask("POST", f"/v1/sessions/{session}/items", body, expect=422)
        assert CANARY not in str(problem)
        assert "secret" not in str(problem)
        assert site.ask("GET", f"/v1/sessions/{session}/items")["items"] == []


class TestSummary:
    """Figures that grow with every item and stay when it goes."""

    @pytest.mark.row("P1.2")
    def test_the_figures_stay_when_the_landmarks_go(self, site: Site) -> None:
        """Two participants and nobody in particular: one mean, one count, the session's length."""
        session = site.session("biometric-coach")
        ann, bob = site.join(session, "ann"), site.join(session, "bob")
        store(site, session, 0.2, 0.4, participants=[ann["token"]])
        site.wait(30 * SECOND)
        store(site, session, 0.9, participants=[bob["token"]])
        site.wait(30 * SECOND)
        store(site, session, 0.1)
        path = f"/v1/sessions/{session}/summary"
        before = site.ask("GET", path)
        assert before["figures"]["avg_stillness"] == pytest.approx(1.6 / 4)
        assert before["figures"]["total_frames"] == 4
        assert before["figures"]["session_duration"] == 60.0
        assert before["contributors"] == 2
        site.wait(4 * MINUTE)
        site.sweep()
        after = site.ask("GET", path)
        assert after["figures"] == before["figures"]
        assert (before["tier"], after["tier"]) == ("full", "summary")
        site.wait(30 * MINUTE)
        assert site.ask("GET", path, expect=410)["type"].endswith("session-erased")

    def test_on_demand_the_full_data_goes_at_once(self, site: Site) -> None:
        """`summarize` does now what the rule would do later, and says what it freed."""
        session = site.session("biometric-coach")
        stored = store(site, session, 0.5)
        path = f"/v1/sessions/{session}"
        assert site.ask("POST", f"{path}/summarize")["tier"] == "summary"
        site.ask("GET", f"{path}/items/{stored['id']}", expect=404)
        assert site.ask("GET", f"{path}/summary")["figures"]["total_frames"] == 1
        *_, summarized = site.ask("GET", f"{path}/events")["events"]
        assert summarized["data"]["rule"] == "request"
        assert summarized["data"]["bytes_freed"] == stored["size"]

    @pytest.mark.row("P1.5")
    def test_the_database_gives_the_bytes_back(self, site: Site) -> None:
        """From full to summary by four fifths and more, at erasure to nothing; keys go with it."""
        sessions = [site.session("biometric-coach") for _ in range(5)]
        for session in sessions:
            store(site, session, *(frame / 500 for frame in range(500)))
        full = site.lapse.log.stored_bytes()
        site.wait(5 * MINUTE)
        site.sweep()
        summarized = site.lapse.log.stored_bytes()
        assert 0 < summarized <= full / 5
        rows = databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)
        assert (rows["items"], rows["partials"], rows["data_keys"]) == (0, 5, 5)
        site.wait(30 * MINUTE)
        site.sweep()
        assert site.lapse.log.stored_bytes() == 0
        rows = databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)
        assert (rows["partials"], rows["data_keys"], rows["subject_keys"]) == (0, 0, 0)

    def test_a_result_larger_than_the_policy_allows_is_refused(self, site: Site) -> None:
        """5 KB in all, and it may come after completion."""
        session = site.session("video-analysis")
        path = f"/v1/sessions/{session}"
        large = {"kind": "result", "tier": "summary", "records": [{"text": "x" * 5_000}]}
        problem = site.ask("POST", f"{path}/items", large, expect=413)
        assert problem["type"] == "urn:lapse:problem:limit-result"
        site.ask("POST", f"{path}/complete")
        small = {**large, "records": [{"faces": 2}]}
        assert site.ask("POST", f"{path}/items", small, expect=201)["tier"] == "summary"


class TestUploads:
    """Bytes in chunks, several at once, in any order, with checksums."""

    @pytest.mark.row("P3.1")
    def test_chunks_come_in_any_order_and_an_interrupted_upload_goes_on(self, site: Site) -> None:
        """What is missing can be asked for; the whole comes back as it was."""
        session = site.session("video-analysis")
        content = bytes(range(256)) * 9_000
        path = f"/v1/sessions/{session}/uploads"
        begun = upload(site, session, content)
        assert (begun["chunks"], begun["received"], begun["complete"]) == (3, [], False)
        chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        one = f"{path}/{begun['id']}"
        send(site, f"{one}/chunks/2", chunks[2])
        send(site, f"{one}/chunks/0", chunks[0])
        assert site.ask("GET", one)["received"] == [0, 2]
        site.ask("GET", f"{one}/content", expect=409)
        assert send(site, f"{one}/chunks/0", chunks[0], expect=200)["received"] == 2
        assert send(site, f"{one}/chunks/1", chunks[1])["complete"]
        token = {"Authorization": f"Bearer {site.token('producer')}"}
        whole = site.client.get(f"{one}/content", headers=token)
        assert whole.content == content
        assert whole.headers["content-type"] == "video/mp4"
        assert site.client.get(f"{one}/chunks/1", headers=token).content == chunks[1]

    def test_what_is_not_what_was_announced_is_refused(self, site: Site) -> None:
        """A wrong checksum, none, too short, too long, beyond the end, other bytes."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * 10)
        one = f"/v1/sessions/{session}/uploads/{begun['id']}/chunks"
        assert "checksum" in send(site, f"{one}/0", b"x" * 10, 422, b"no")["title"]
        headers = {"Authorization": f"Bearer {site.token('producer')}"}
        assert site.client.put(f"{one}/0", content=b"x" * 10, headers=headers).status_code == 422
        send(site, f"{one}/0", b"x" * 9, 422)
        send(site, f"{one}/0", b"x" * 11, 422)
        send(site, f"{one}/1", b"x" * 10, 422)
        send(site, f"{one}/0", b"x" * (CHUNK + 1), 413)
        send(site, f"{one}/0", b"x" * 10)
        send(site, f"{one}/0", b"y" * 10, 409)
        site.ask("GET", f"{one}/5", expect=404)

    @pytest.mark.row("P3.2")
    def test_completion_erases_all_chunks_at_once(self, site: Site) -> None:
        """Not at their term; only the result stays, until the session ends."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * 10)
        path = f"/v1/sessions/{session}"
        send(site, f"{path}/uploads/{begun['id']}/chunks/0", b"x" * 10)
        result = {"kind": "result", "tier": "summary", "records": [{"faces": 2}]}
        kept = site.ask("POST", f"{path}/items", result, expect=201)
        site.ask("POST", f"{path}/complete")
        rows = databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)
        assert (rows["items"], rows["uploads"], rows["data_keys"]) == (1, 0, 1)
        assert site.ask("GET", f"{path}/items/{kept['id']}")["records"] == [{"faces": 2}]
        erased = site.ask("GET", f"{path}/events")["events"][-1]
        assert (erased["event"], erased["data"]["scope"]) == ("erased", "chunks")
        assert erased["data"]["bytes_freed"] > 0
        site.wait(10 * MINUTE)
        site.ask("GET", f"{path}/items/{kept['id']}", expect=410)

    @pytest.mark.row("P3.1")
    def test_each_chunk_has_its_own_term(self, site: Site) -> None:
        """Stored two minutes apart, hidden and deleted two minutes apart, swept or not."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * (CHUNK + 10))
        one = f"/v1/sessions/{session}/uploads/{begun['id']}"
        send(site, f"{one}/chunks/0", b"x" * CHUNK)
        site.wait(2 * MINUTE)
        send(site, f"{one}/chunks/1", b"x" * 10)
        site.wait(3 * MINUTE)
        assert site.ask("GET", one)["received"] == [1]
        site.ask("GET", f"{one}/chunks/0", expect=410)
        site.sweep()
        assert (
            databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)["items"] == 1
        )
        assert site.ask("GET", one)["received"] == [1]
        site.wait(2 * MINUTE)
        site.ask("GET", one, expect=410)
        site.sweep()
        assert site.lapse.log.stored_bytes() == 0

    def test_three_swept_late_are_as_if_swept_in_time(self, site: Site) -> None:
        """The one in the middle does not wait for the newest."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * (2 * CHUNK + 10))
        one = f"/v1/sessions/{session}/uploads/{begun['id']}"
        for index in range(2):
            send(site, f"{one}/chunks/{index}", b"x" * CHUNK)
            site.wait(MINUTE)
        send(site, f"{one}/chunks/2", b"x" * 10)
        site.wait(3 * MINUTE)  # the first is due
        site.sweep()
        assert site.ask("GET", one)["received"] == [1, 2]
        site.wait(MINUTE)  # the second is
        site.sweep()
        assert site.ask("GET", one)["received"] == [2]
        assert (
            databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)["items"] == 1
        )


class TestLimits:
    """Bytes of one session and of all, exact."""

    def test_a_session_holds_what_its_policy_allows(self, site: Site) -> None:
        """An upload that cannot fit is refused before a byte of it came."""
        session = site.session("video-analysis")
        body = {"kind": "video", "size": 600_000_000}
        problem = site.ask("POST", f"/v1/sessions/{session}/uploads", body, expect=413)
        assert problem["type"] == "urn:lapse:problem:limit-bytes"
        assert problem["limit"] == 512_000_000

    def test_too_much_on_its_way_is_asked_to_come_again(self, site: Site) -> None:
        """Memory is bounded per session and in all: 503 with Retry-After, and nothing is kept."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * 10)
        in_flight = site.client.app.state.in_flight  # type: ignore[attr-defined]
        in_flight._held[session] = site.lapse.settings.upload_memory // 4
        path = f"/v1/sessions/{session}/uploads/{begun['id']}/chunks/0"
        assert send(site, path, b"x" * 10, 503)["type"].endswith("busy")
        del in_flight._held[session]
        send(site, path, b"x" * 10)
        assert in_flight.held == 0


@pytest.mark.row("P3.4")
def test_erased_on_demand_nothing_is_left_and_the_same_key_may_ask_again(site: Site) -> None:
    """The history says what was freed; a retry of the same request is no error."""
    session = site.session("reading-room")
    stored = store(site, session, 0.5)
    path = f"/v1/sessions/{session}"
    for _ in range(2):
        site.ask("DELETE", path, expect=204, Idempotency_Key="gone")
    site.ask("DELETE", path, expect=410)
    erased = site.ask("GET", f"{path}/events")["events"][-1]
    assert erased["data"]["bytes_freed"] == stored["size"]
    rows = databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)
    assert (rows["items"], rows["data_keys"], rows["subject_keys"]) == (0, 0, 0)
    assert math.isclose(site.lapse.log.stored_bytes(), 0)


def test_a_key_is_for_one_operation_and_its_arguments(site: Site) -> None:
    """The same key on something else is another command, not a repetition."""
    session = site.session("reading-room")
    path = f"/v1/sessions/{session}"
    ann = site.ask(
        "POST", f"{path}/participants", {"subject": "ann"}, expect=201, Idempotency_Key="k"
    )
    bob = site.ask(
        "POST", f"{path}/participants", {"subject": "bob"}, expect=201, Idempotency_Key="k"
    )
    assert ann["token"] != bob["token"]
    site.ask("POST", f"{path}/extend", {"until": "2026-01-01T02:00:00Z"}, Idempotency_Key="k")
    site.ask("POST", f"{path}/extend", {"until": "2026-01-01T03:00:00Z"}, Idempotency_Key="k")
    site.ask("POST", f"{path}/complete", Idempotency_Key="k")
    events = [event["event"] for event in site.ask("GET", f"{path}/events")["events"]]
    assert events == ["created", "joined", "joined", "extended", "extended", "completed"]
    site.wait(3 * HOUR)
    assert site.ask("GET", path)["state"] == "expired"


class TestWhatAnAttackerTried:
    """Each was possible once."""

    def test_a_key_on_something_else_is_another_item(self, site: Site) -> None:
        """Another kind, other records, another size: kept beside, and nobody else is disturbed."""
        session = site.session("biometric-coach")
        path = f"/v1/sessions/{session}"
        found = {
            site.ask(
                "POST",
                f"{path}/items",
                {"kind": kind, "records": records(value)},
                expect=201,
                Idempotency_Key="k",
            )["id"]
            for kind, value in (("a", 0.1), ("b", 0.1), ("a", 0.2), ("a", 0.1))
        }
        assert len(found) == 3
        uploads = {
            site.ask(
                "POST",
                f"{path}/uploads",
                {"kind": "video", "size": size},
                expect=201,
                Idempotency_Key="k",
            )["id"]
            for size in (5, 6, 5)
        }
        assert len(uploads) == 2

    def test_a_chunk_outlives_the_one_before_it_that_was_due(self, site: Site) -> None:
        """Nobody sweeps: what is due goes first, then the new one is stored and stays."""
        session = site.session("video-analysis")
        begun = upload(site, session, b"x" * (CHUNK + 10))
        one = f"/v1/sessions/{session}/uploads/{begun['id']}"
        send(site, f"{one}/chunks/0", b"x" * CHUNK)
        site.wait(5 * MINUTE)
        assert send(site, f"{one}/chunks/1", b"x" * 10)["received"] == 1
        assert site.ask("GET", one)["received"] == [1]
        rows = databases.row_counts(site.lapse.settings.database_url, databases.PEOPLE)
        assert (rows["items"], rows["uploads"], rows["data_keys"]) == (1, 1, 1)
        assert site.lapse.log.stored_bytes() == 10 + 28

    def test_an_upload_that_was_announced_outlives_chunks_of_another(self, site: Site) -> None:
        """They have their own terms."""
        session = site.session("video-analysis")
        path = f"/v1/sessions/{session}/uploads"
        first = upload(site, session, b"x" * 10)
        send(site, f"{path}/{first['id']}/chunks/0", b"x" * 10)
        site.wait(4 * MINUTE)
        second = upload(site, session, b"x" * 10)
        site.wait(MINUTE)
        site.sweep()
        assert send(site, f"{path}/{second['id']}/chunks/0", b"x" * 10)["complete"]

    @pytest.mark.parametrize(
        "values", [(1e200, 1.0), (1.7e308, 1.7e308), (1e200, -1e200), (2**53, 2**53, 2**53)]
    )
    def test_figures_too_large_for_a_number_are_null_and_break_nothing(
        self, site: Site, values: tuple[float, ...]
    ) -> None:
        """Neither what is stored next, nor anybody's look at the summary."""
        session = site.session("biometric-coach")
        for value in values:
            store(site, session, value)
        store(site, session, *values)
        figures = site.ask("GET", f"/v1/sessions/{session}/summary")["figures"]
        assert figures["total_frames"] == 2 * len(values)
        assert figures["avg_stillness"] is None or math.isfinite(figures["avg_stillness"])

    def test_who_left_reads_and_stores_nothing_any_more(self, site: Site) -> None:
        """Back again, they do."""
        session = site.session("biometric-coach")
        ann = site.join(session, "ann")
        path, token = f"/v1/sessions/{session}", ann["access_token"]
        site.ask("GET", f"{path}/items", token=token)
        site.ask("POST", f"{path}/leave", {}, token=token)
        site.ask("GET", f"{path}/items", token=token, expect=404)
        body = {"kind": "landmarks", "records": records(0.5)}
        site.ask("POST", f"{path}/items", body, token=token, expect=404)
        site.join(session, "ann")
        site.ask("GET", f"{path}/items", token=token)

    def test_who_takes_part_extends_an_hour_beyond_the_rules(self, site: Site) -> None:
        """However often; its producer may go further."""
        session = site.session("reading-room")
        ann = site.join(session, "ann")
        path = f"/v1/sessions/{session}/extend"
        for _ in range(2):
            site.ask("POST", path, {"until": "2026-01-01T02:00:00Z"}, token=ann["access_token"])
        far = {"until": "2026-01-01T02:00:01Z"}
        site.ask("POST", path, far, token=ann["access_token"], expect=409)
        site.ask("POST", path, {"until": "9999-12-31T00:00:00Z"})

    def test_a_body_is_refused_before_it_is_read(self, site: Site) -> None:
        """For a session that is unknown, over, or another policy's; nothing is held for it."""
        token = site.token("producer", "reading-room")
        body = {"kind": "landmarks", "records": records(0.5)}
        other = site.session("biometric-coach")
        site.ask("POST", f"/v1/sessions/{other}/items", body, token=token, expect=403)
        site.ask("POST", f"/v1/sessions/{'0' * 32}/items", body, token=token, expect=404)
        assert site.client.app.state.in_flight.held == 0  # type: ignore[attr-defined]

    def test_requests_are_not_shown_to_tokens_of_some_policies(self, site: Site) -> None:
        """They name sessions of all."""
        token = site.token("auditor", "reading-room")
        site.ask("GET", "/v1/audit/requests", token=token, expect=403)
