"""People get a copy of all that is held about them, and nothing of anybody else."""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.scheduler.copies import Copies
from domain.access import AccessRequest, AccessStatus
from domain.errors import CopyGone, CopyNotReady, CopyUnknown
from domain.facts import CopyEnded, Verification
from domain.policy import DAY, HOUR, MINUTE, SECOND
from domain.session import Ground, Scope
from domain.use_cases.items import CHUNK, Content
from tests.adapters.installations import Opened, opened

ROOM = "reading-room"


@pytest.fixture
def here(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Opened]:
    with opened(database_url, key_url, tmp_path) as lapse:
        yield lapse


def room(here: Opened, policy: str = ROOM, owner: str | None = None) -> str:
    return here.lapse.sessions.create(policy, here.now, "operator", owner=owner).id


def join(here: Opened, session: str, who: str, name: str | None = None) -> str:
    return here.lapse.sessions.join(session, who, here.now, "operator", name=name)


def keep(
    here: Opened,
    session: str,
    records: list[dict[str, Any]],
    *tokens: str,
    scope: Scope = Scope.FULL,
) -> str:
    content = Content(
        "notes", bytearray(json.dumps(records).encode()), scope, tokens, records=records
    )
    return here.lapse.items.store(session, content, here.now, "operator").head.item_id


def keep_bytes(here: Opened, session: str, content: bytes, *tokens: str) -> str:
    stored = Content("picture", bytearray(content), Scope.FULL, tokens, "image/png")
    return here.lapse.items.store(session, stored, here.now, "operator").head.item_id


def upload(here: Opened, session: str, size: int, *tokens: str) -> str:
    """An upload of zeros, whole."""
    items, now = here.lapse.items, here.now
    begun = items.begin_upload(session, "video", size, now, "operator", participants=tokens)
    for index in range(-(-size // CHUNK)):
        chunk = bytearray(min(CHUNK, size - index * CHUNK))
        items.put_chunk(session, begun.upload.upload_id, index, chunk, now, "operator")
    return begun.upload.upload_id


def ask(here: Opened, who: str) -> str:
    access = here.lapse.access()
    return access.request(who, Verification.CONTROLLER, here.now, "privacy-officer").id


def copy_of(here: Opened, who: str) -> Mapping[str, bytes]:
    """The files of the copy that somebody gets now."""
    request = ask(here, who)
    here.lapse.access().work(here.now)
    return fetched(here, request)


def fetched(here: Opened, request: str) -> Mapping[str, bytes]:
    pieces = here.lapse.access().content(request, here.now, "privacy-officer")
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def found(here: Opened, request: str) -> AccessRequest:
    return here.lapse.access().find(request, here.now)


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def test_a_copy_holds_everything_about_somebody(here: Opened) -> None:
    """Profile, presence, items, bytes, uploads, figures, purposes and terms: in each session where
    they took part or which is theirs."""
    coached, owned = room(here, "biometric-coach"), room(here, "therapy-audio", owner="ann")
    ann = join(here, coached, "ann", "Ann A.")
    records = [{"stillness": 0.5}, {"stillness": 0.7}]
    item, picture = keep(here, coached, records, ann), keep_bytes(here, coached, b"\x89PNG", ann)
    video = upload(here, coached, CHUNK + 10, ann)
    joint = keep(here, owned, [{"note": "of the session"}])
    files = copy_of(here, "ann")

    about = json.loads(files[f"sessions/{coached}/session.json"])
    (name,) = about["names"]
    assert (name["subject"], name["name"], name["token"]) == ("ann", "Ann A.", ann)
    assert about["roles"] == ["participant"]
    assert [one["token"] for one in about["presence"]] == [ann]
    assert about["purpose"]["policy"]["rules"]
    assert about["erases_at"] is not None
    assert about["figures"]["total_frames"] == 2
    assert about["figures"]["avg_stillness"] == pytest.approx(0.6)
    assert [one["event"] for one in about["history"]][:2] == ["created", "joined"]
    listed = {one["id"]: one for one in lines(files[f"sessions/{coached}/items.jsonl"])}
    assert listed.keys() == {item, picture, video}
    assert {one["about"] for one in listed.values()} == {"you"}
    assert listed[item]["rule"] == "summarize-created"
    assert listed[item]["erases_at"] == "2026-01-01T00:05:00.000Z"
    (kept,) = lines(files[f"sessions/{coached}/records.jsonl"])
    assert (kept["item"], kept["records"]) == (item, records)
    assert files[f"sessions/{coached}/files/{picture}"] == b"\x89PNG"
    assert files[f"sessions/{coached}/uploads/{video}"] == bytes(CHUNK + 10)

    about = json.loads(files[f"sessions/{owned}/session.json"])
    assert about["roles"] == ["owner"]
    (kept,) = lines(files[f"sessions/{owned}/records.jsonl"])
    assert (kept["item"], kept["records"]) == (joint, [{"note": "of the session"}])


def test_nothing_of_anybody_else_is_in_it(here: Opened) -> None:
    """Not their name, token or item; of what is about both it is said that it is there."""
    session = room(here, "therapy-audio")
    ann, bob = join(here, session, "ann", "Ann"), join(here, session, "bob", "Bob")
    keep(here, session, [{"secret": "of-bob"}], bob)
    shared = keep(here, session, [{"said": "by both"}], ann, bob)
    nobodys = keep(here, session, [{"note": "of nobody"}])
    files = copy_of(here, "ann")
    everything = b"".join(files.values())
    for absent in (b"Bob", bob.encode(), b"of-bob", b"by both", b"of nobody", nobodys.encode()):
        assert absent not in everything
    (listed,) = lines(files[f"sessions/{session}/items.jsonl"])
    assert (listed["id"], listed["about"]) == (shared, "others too")
    assert "15(4)" in listed["withheld"]


def test_shared_content_is_in_it_where_the_policy_keeps_it_whole(
    database_url: str, key_url: str, tmp_path: Path
) -> None:
    """`shared = "keep"`: still without the tokens of others."""
    policies = tmp_path / "policies.toml"
    policies.write_text(
        '[policy.duet]\nshared = "keep"\n'
        'rules = [{ since = "created", after = "30d", do = "erase" }]\n'
    )
    with opened(database_url, key_url, tmp_path, policy_file=policies) as here:
        session = room(here, "duet")
        ann, bob = join(here, session, "ann"), join(here, session, "bob")
        keep(here, session, [{"said": "by both"}], ann, bob)
        files = copy_of(here, "ann")
        everything = b"".join(files.values())
        assert b"by both" in everything
        assert bob.encode() not in everything


def test_what_is_expired_or_held_is_in_it_and_what_is_due_is_not(here: Opened) -> None:
    """Recoverable sessions are held about somebody still; of what should be gone nothing is shown,
    swept or not."""
    expired, held = room(here), room(here, "biometric-coach")
    ann = join(here, expired, "ann")
    join(here, held, "ann")
    keep(here, expired, [{"said": "once"}], ann)
    here.lapse.sessions.hold(held, "case-1", Ground.LEGAL_CLAIM, None, here.now, "operator")
    here.wait(2 * HOUR)
    files = copy_of(here, "ann")
    assert json.loads(files[f"sessions/{expired}/session.json"])["state"] == "expired"
    assert json.loads(files[f"sessions/{held}/session.json"])["held"] is True
    assert b"once" in files[f"sessions/{expired}/records.jsonl"]
    here.wait(DAY)
    assert f"sessions/{expired}/session.json" not in copy_of(here, "ann")


def test_of_whom_nothing_is_known_a_copy_says_so(here: Opened) -> None:
    """It is made, and holds no session."""
    files = copy_of(here, "nobody")
    assert files.keys() == {"about.json"}


def test_a_copy_waits_sealed_for_its_term(here: Opened) -> None:
    """Who asked, who got it and that it went stands in the log; its bytes and its key are gone."""
    session = room(here, "therapy-audio")
    join(here, session, "ann", "Ann")
    access = here.lapse.access()
    request = ask(here, "ann")
    with pytest.raises(CopyNotReady):
        access.content(request, here.now, "privacy-officer")
    access.work(here.now)
    ready = found(here, request)
    assert (ready.status, ready.sessions) == (AccessStatus.READY, 1)
    assert ready.erases_at == here.now + 7 * DAY
    [[sealed]] = here.execute("SELECT sealed FROM access_parts")
    assert b"Ann" not in bytes(sealed)
    assert b"PK" not in bytes(sealed)[:4]
    fetched(here, request)

    here.wait(7 * DAY)
    assert found(here, request).status is AccessStatus.ERASED
    with pytest.raises(CopyGone):
        access.content(request, here.now, "privacy-officer")
    access.work(here.now)
    gone = found(here, request)
    assert (gone.status, gone.reason) == (AccessStatus.ERASED, CopyEnded.TERM)
    for table in ("access_parts", "access_sessions"):
        assert here.execute(f"SELECT * FROM {table}") == []
    assert here.execute("SELECT * FROM subject_keys WHERE subject = ?", request) == []
    told = [(one.event.TOPIC, one.event.actor) for one in here.lapse.log.history(request)]
    assert told == [
        ("access.received.v1", "privacy-officer"),
        ("access.ready.v1", "scheduler"),
        ("access.sent.v1", "privacy-officer"),
        ("access.erased.v1", "scheduler"),
    ]
    assert access.work(here.now) == 0
    with pytest.raises(CopyUnknown):
        access.find("0" * 32, here.now)


def test_a_copy_goes_with_the_first_thing_in_it_that_does(here: Opened) -> None:
    """It must not outlive what it is made of: hidden at that instant, then erased."""
    session = room(here, "biometric-coach")
    keep(here, session, [{"stillness": 0.5}], join(here, session, "ann"))
    request = ask(here, "ann")
    here.lapse.access().work(here.now)
    assert found(here, request).erases_at == here.now + 5 * MINUTE
    here.wait(5 * MINUTE)
    with pytest.raises(CopyGone):
        here.lapse.access().content(request, here.now, "privacy-officer")
    assert found(here, request).reason is CopyEnded.OUTDATED


def test_an_erasure_takes_the_copies_of_what_it_erases(here: Opened) -> None:
    """In the same transaction, key and all; copies of other sessions stay."""
    session, other = room(here, "therapy-audio"), room(here, "therapy-audio")
    join(here, session, "ann"), join(here, other, "bob")
    anns, bobs = ask(here, "ann"), ask(here, "bob")
    here.lapse.access().work(here.now)
    here.lapse.sessions.erase(session, here.now, "operator")
    assert {row[0] for row in here.execute("SELECT request_id FROM access_parts")} == {bobs}
    assert here.execute("SELECT * FROM subject_keys WHERE subject = ?", anns) == []
    assert found(here, anns).reason is CopyEnded.OUTDATED
    with pytest.raises(CopyGone):
        here.lapse.access().content(anns, here.now, "privacy-officer")
    here.lapse.access().work(here.now)
    assert found(here, anns).status is AccessStatus.ERASED
    assert fetched(here, bobs)


def test_what_is_erased_while_a_copy_is_made_is_not_in_it(here: Opened) -> None:
    """The copy is begun anew."""
    session, other = room(here, "therapy-audio"), room(here, "therapy-audio")
    for one in (session, other):
        join(here, one, "ann")
    access = here.lapse.access()
    request = ask(here, "ann")
    real = access._contents.entries

    def erasing(*arguments: Any) -> Iterator[Any]:
        for number, entry in enumerate(real(*arguments)):
            if number == 1:
                here.lapse.sessions.erase(session, here.now, "operator")
            yield entry

    object.__setattr__(access._contents, "entries", erasing)
    access.work(here.now)
    assert found(here, request).status is AccessStatus.REQUESTED
    here.lapse.access().work(here.now)
    files = fetched(here, request)
    assert f"sessions/{other}/session.json" in files
    assert f"sessions/{session}/session.json" not in files


def test_a_large_upload_passes_in_bounded_memory(here: Opened) -> None:
    """48 MiB: neither making the copy nor giving it out takes more than a few parts."""
    session = room(here, "therapy-audio")
    video = upload(here, session, 48 * CHUNK, join(here, session, "ann"))
    request = ask(here, "ann")
    tracemalloc.start()
    here.lapse.access().work(here.now)
    size = sum(map(len, here.lapse.access().content(request, here.now, "privacy-officer")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == found(here, request).size
    assert peak < 16 * CHUNK
    assert fetched(here, request)[f"sessions/{session}/uploads/{video}"] == bytes(48 * CHUNK)


def test_one_process_makes_the_copies(here: Opened) -> None:
    """A second one passes by while the first is at it."""
    lapse = here.lapse
    room_id = room(here, "therapy-audio")
    join(here, room_id, "ann")
    request = ask(here, "ann")
    one, other = (Copies(lapse.access(), lapse.engines, lapse.clock, name) for name in "ab")
    with one._leases.lease("copies"):
        other.work()
        assert found(here, request).status is AccessStatus.REQUESTED
    here.wait(SECOND)
    other.work()
    assert found(here, request).status is AccessStatus.READY


def test_who_comes_into_a_room_while_their_copy_is_made_leaves_nothing_in_it(here: Opened) -> None:
    """What is erased of that room later would else stay in a copy that nobody knows to hold it."""
    before, after = room(here, "therapy-audio"), room(here, "therapy-audio")
    join(here, before, "ann")
    request, access = ask(here, "ann"), here.lapse.access()
    begin = access._store.begin

    def joining(*arguments: Any) -> None:
        begin(*arguments)
        keep(here, after, [{"x": 1}], join(here, after, "ann"))

    access._store.begin = joining  # type: ignore[assignment, method-assign]
    access.work(here.now)
    here.lapse.sessions.erase(after, here.now, "operator")
    files = fetched(here, request)
    assert f"sessions/{before}/session.json" in files
    assert not [name for name in files if after in name]
