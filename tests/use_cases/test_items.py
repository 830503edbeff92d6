"""What sessions store, on every kind of store: sealed, bounded, hidden and deleted on time."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as some

from adapters.vault.summaries import AggregateSummaries
from domain.errors import (
    ContentRefused,
    ItemErased,
    ItemUnknown,
    LimitReached,
    NotAllowed,
    OnHold,
    ParticipantUnknown,
    SealBroken,
    SessionErased,
)
from domain.policy import MINUTE
from domain.ports import bytes_scope
from domain.session import Ground, Scope, Tier
from domain.use_cases.items import Content
from tests.use_cases.conftest import App
from tests.use_cases.test_sessions import TEN, A

RESULT = Content("result", bytearray(b"x" * 60), Scope.SUMMARY)


def coach(app: App) -> str:
    return app.sessions.create("coach", TEN, A).id


def test_an_item_opens_only_as_itself(app: App) -> None:
    """Its bytes under another id, or of another session, are refused."""
    one, other = coach(app), coach(app)
    stored = app.put(one, TEN, 1.0)
    again = app.put(one, TEN, 1.0)
    app.put(other, TEN, 1.0)
    vault, items = app.store.vault, app.items
    item = vault.item(one, stored.head.item_id, 0)
    key, foreign = (
        vault.data_keys(one, Scope.FULL).get(""),
        vault.data_keys(other, Scope.FULL).get(""),
    )
    assert item is not None and key is not None and foreign is not None
    keyring = items._keyring
    assert keyring.open(key, item.head.item_id, "0", item.sealed) == b"[{'x': 1.0, 'k': 1}]"
    for wrong in ((key, again.head.item_id, "0"), (key, item.head.item_id, "1")):
        with pytest.raises(SealBroken):
            keyring.open(*wrong, item.sealed)
    with pytest.raises(SealBroken):
        keyring.open(foreign, item.head.item_id, "0", item.sealed)


def test_one_participant_seals_with_a_key_of_their_own(app: App) -> None:
    """Two share the joint key, a stranger stores nothing."""
    session = coach(app)
    ann, bob = app.sessions.join(session, "ann", TEN, A), app.sessions.join(session, "bob", TEN, A)
    app.put(session, TEN, participants=(ann,))
    app.put(session, TEN, participants=(ann, bob))
    assert set(app.store.vault.data_keys(session, Scope.FULL)) == {ann, ""}
    before = app.store.log.head()
    with pytest.raises(ParticipantUnknown):
        app.put(session, TEN, participants=("0" * 32,))
    assert app.store.log.head() == before


def test_the_log_tells_sizes_and_a_commitment_and_nothing_else(app: App) -> None:
    """Two items of the same content have different commitments."""
    session = coach(app)
    app.put(session, TEN, 1.0)
    app.put(session, TEN, 1.0)
    one, other = app.events(session)[1:]
    assert (one.items, one.scope) == (1, Scope.FULL)  # type: ignore[attr-defined]
    assert one.commitment != other.commitment  # type: ignore[attr-defined]
    assert len(one.commitment) == 64  # type: ignore[attr-defined]


def test_what_a_session_may_store_is_exact(app: App) -> None:
    """Of one session, of all under the policy, and of results; what was refused left nothing."""
    session = coach(app)
    large = Content("blob", bytearray(3_000), media_type="a/b")
    app.items.store(session, large, TEN, A)
    with pytest.raises(LimitReached) as refused:
        app.items.store(session, large, TEN, A)
    assert (refused.value.scope, refused.value.limit) == ("bytes", 4_000)
    app.items.store(coach(app), large, TEN, A)
    third = coach(app)
    with pytest.raises(LimitReached) as refused:
        app.items.store(third, large, TEN, A)
    assert refused.value.limit == 8_000
    assert app.store.vault.items(third, "", 10) == []
    app.items.store(third, RESULT, TEN, A)
    with pytest.raises(LimitReached) as refused:
        app.items.store(third, RESULT, TEN, A)
    assert refused.value.scope == "result"
    assert app.store.log.stored_bytes() == 2 * 3_028 + 88
    app.sessions.erase(third, TEN, A)
    assert app.store.log.stored_bytes() == 2 * 3_028
    assert bytes_scope("coach") == "bytes:coach"


def test_a_hold_keeps_the_full_tier(app: App) -> None:
    """Neither the rule nor a request deletes it; after the release it goes."""
    session = coach(app)
    stored = app.put(session, TEN)
    app.sessions.hold(session, "h1", Ground.LEGAL_CLAIM, None, TEN, A)
    with pytest.raises(OnHold):
        app.sessions.summarize(session, TEN, A)
    app.sweep(TEN + 6 * MINUTE)
    assert app.items.get(session, stored.head.item_id, TEN + 6 * MINUTE)
    app.sessions.release(session, "h1", TEN + 7 * MINUTE, A)
    app.sweep(TEN + 7 * MINUTE)
    with pytest.raises(ItemUnknown):
        app.items.get(session, stored.head.item_id, TEN + 7 * MINUTE)
    assert app.items.summary(session, TEN + 7 * MINUTE).tier is Tier.SUMMARY


def test_the_summary_is_hidden_and_gone_with_the_session(app: App) -> None:
    """Rows and keys; the joint key too."""
    session = coach(app)
    app.put(session, TEN)
    app.sweep(TEN + 5 * MINUTE)
    assert app.left_of_people() == {"data_keys": 1, "partials": 1, "subject_keys": 1}
    app.sweep(TEN + 35 * MINUTE)
    assert app.left_of_people() == {}
    with pytest.raises(SessionErased):
        app.items.summary(session, TEN + 35 * MINUTE)


def test_summarized_means_nothing_more_is_stored(app: App) -> None:
    """A result is; the full tier is over."""
    session = coach(app)
    app.put(session, TEN)
    app.sessions.summarize(session, TEN, A)
    with pytest.raises(NotAllowed):
        app.put(session, TEN)
    app.items.store(session, RESULT, TEN, A)
    assert app.items.list(session, TEN)[0][0].head.scope is Scope.SUMMARY


def test_chunks_of_different_age_go_one_by_one(app: App) -> None:
    """Each at its own instant, however late the sweep; the others stay readable."""
    session = coach(app)
    sent = bytearray(b"x" * 10)
    uploads = []
    for minute in range(3):
        now = TEN + minute * MINUTE
        upload = app.items.begin_upload(session, "clip", 10, now, A).upload.upload_id
        app.items.put_chunk(session, upload, 0, sent, now, A)
        uploads.append(upload)
    now = TEN + 3 * MINUTE + 1
    for _ in range(2):  # not swept, and swept
        assert [app.items.chunk(session, one, 0, now) for one in uploads[2:]] == [sent]
        for gone in uploads[:2]:
            with pytest.raises((ItemErased, ItemUnknown)):
                app.items.chunk(session, gone, 0, now)
        app.sweep(now)
    freed = [getattr(event, "bytes_freed", 0) for event in app.events(session)]
    assert sum(freed) == 2 * 38
    app.sessions.complete(session, now, A)
    assert app.store.log.stored_bytes() == 0


def test_an_upload_takes_only_what_was_announced(app: App) -> None:
    """A size below 1, a chunk beyond the end or of another length."""
    session = coach(app)
    with pytest.raises(ContentRefused):
        app.items.begin_upload(session, "clip", 0, TEN, A)
    upload = app.items.begin_upload(session, "clip", 10, TEN, A).upload.upload_id
    for index, size in ((0, 9), (0, 11), (1, 10), (-1, 10)):
        with pytest.raises(ContentRefused):
            app.items.put_chunk(session, upload, index, bytearray(size), TEN, A)
    with pytest.raises(ItemUnknown):
        app.items.put_chunk(session, "0" * 32, 0, bytearray(10), TEN, A)


def test_the_figures_of_a_summary_are_right(app: App) -> None:
    """Against the standard library, over items of several participants."""
    session = coach(app)
    ann = app.sessions.join(session, "ann", TEN, A)
    app.put(session, TEN, 1.0, 2.0, participants=(ann,))
    app.put(session, TEN, 4.0)
    app.put(session, TEN, 8.0, 9.5, participants=(ann,))
    figures = app.items.summary(session, TEN).figures
    assert figures["mean"] == pytest.approx(statistics.mean([1.0, 2.0, 4.0, 8.0, 9.5]))
    assert (figures["frames"], figures["half"], figures["kinds"]) == (5, 4.0, 5)


numbers = some.floats(-1e6, 1e6) | some.integers(-1_000_000, 1_000_000)
parts = some.lists(some.lists(numbers, min_size=1, max_size=20), min_size=1, max_size=6)


@given(parts, some.integers(1, 3))
def test_figures_do_not_depend_on_who_contributed_what(
    batches: list[list[float]], people: int
) -> None:
    """However records are spread over batches and participants, the figures are those of all."""
    summary = {
        name: f"{name}(x)" for name in ("sum", "mean", "min", "max", "stddev", "count", "distinct")
    }
    summaries = AggregateSummaries()
    partials: dict[int, bytes] = {}
    for at, batch in enumerate(batches):
        person = at % people
        records = [{"x": value} for value in batch] + [{"y": 1}]
        partials[person] = summaries.add(summary, partials.get(person), records, at)
    found = summaries.figures(summary, list(partials.values()), 0)
    values = list(itertools.chain(*batches))
    assert found["count"] == len(values)
    assert found["sum"] == pytest.approx(sum(values), abs=1e-6)
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert (found["min"], found["max"]) == (min(values), max(values))
    if len(values) > 1:
        assert found["stddev"] == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-4)
    assert found["distinct"] == len({repr(value) for value in values})


def test_what_is_no_number_does_not_enter_a_figure() -> None:
    """Texts, truth values, nothing, lists; first and last keep a bounded text."""
    summary = {"mean": "mean(a.b)", "first": "first(t)", "last": "last(t)", "none": "max(z)"}
    summaries = AggregateSummaries()
    records = [{"a": {"b": value}, "t": "x" * 500} for value in (1, "2", True, None, [3], 5.0)]
    found = summaries.figures(summary, [summaries.add(summary, None, records, 1)], 0)
    assert (found["mean"], found["first"], found["none"]) == (3.0, "x" * 200, None)
    assert found["last"] == found["first"]


def test_what_a_session_stores_is_bounded_with_its_figures(app: App) -> None:
    """Sealed, and with what the summary grows by: never a byte beyond."""
    session = coach(app)
    with pytest.raises(LimitReached):
        for batch in range(200):
            app.put(session, TEN, *(batch + number / 7 for number in range(20)))
    found = app.store.log.find([session])[session].session
    assert 2_000 < found.stored_bytes <= 4_000
    assert found.stored_bytes == app.store.log.stored_bytes()


def test_a_summary_that_was_taken_is_not_begun_again(app: App) -> None:
    """What is stored later is kept, without figures."""
    session = coach(app)
    app.put(session, TEN)
    found = app.store.log.find([session])[session]
    taken = found.session.changed(erased=frozenset({Scope.SUMMARY}), summary_size=0)
    content = Content("metrics", bytearray(b"x"), records=[{"x": 1}])
    _, changes = app.items._storing(taken, content, "0" * 32, 0, TEN, A)
    assert changes.partials == ()
