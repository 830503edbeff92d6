"""The vault on SQLite and PostgreSQL: who takes part in what, sealed, and when they were seen.

`admit` and `write` run inside the log's transaction (see adapters/log/event_log.py): an event and
the rows that change with it are written together. Nothing here ever holds a name in clear: lookups
are keyed hashes, identities come sealed.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.keyring.generation_keys import GenerationKeys
from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.schema import (
    aliases,
    data_keys,
    invites,
    items,
    partials,
    presence,
    subject_holds,
    subject_index,
    subject_keys,
    subjects,
    uploads,
)
from adapters.vault import item_rows, layers
from adapters.vault.item_rows import delete_stored, write_stored
from adapters.vault.keys_in_use import Writing
from adapters.vault.lookups import SubjectLookups
from adapters.vault.outdated import outdate
from domain.ports import (
    Admission,
    Append,
    Buffer,
    DataKey,
    Invite,
    Item,
    ItemHead,
    Joint,
    Member,
    Partial,
    SealedIdentity,
    SubjectKey,
    Upload,
)
from domain.session import Scope

TIER_IDENTITY = "identity"
"""Of the keys that seal who somebody is; they outlive the full tier and go with the session."""


# -- inside the log's transaction -------------------------------------------------------------


def admit(
    connection: Connection,
    writing: Writing,
    appends: Sequence[Append],
    leaving: Collection[str] = (),
) -> set[str]:
    """Write new subjects and lock all that are concerned; sessions whose author must decide again.

    Inserts first, then locks, each in order of lookup: no two writers wait in a circle. A subject
    that another writer created or deleted since it was read makes the author a stale one, since
    data keys are wrapped under the subject's own. leaving: subjects who go from sessions that are
    not among these.
    """
    wanted = {a.subject.lookup: a.subject for append in appends for a in append.changes.admitted}
    keys = writing.keys if wanted else None
    places = keys.places(wanted) if keys is not None else {}
    fresh = _stored_anew(connection, keys, wanted) if keys is not None else {}
    inserted = bulk.insert_new(
        connection,
        subjects,
        ("lookup", "subject"),
        "lookup",
        [(stored, fresh[stored].subject) for stored in sorted(fresh)],
    )
    bulk.insert(
        connection,
        subject_keys,
        ("subject", "kek", "wrapped"),
        [(s.subject, s.kek, s.wrapped) for stored, s in fresh.items() if stored in inserted],
    )
    erased = _subjects_of(connection, [a.session_id for a in appends if a.erases])
    standing = _lock(connection, places, sorted({*erased, *leaving}))
    stale = {
        append.session_id
        for append in appends
        for admission in append.changes.admitted
        if standing.get(admission.subject.lookup) != admission.subject.subject
    }
    entering = [
        a for append in appends if append.session_id not in stale for a in append.changes.admitted
    ]
    # Who came only with a stale author is in no session, so no erasure would ever reach them.
    entered = {admission.subject.lookup for admission in entering}
    unwanted = sorted(stored for stored in inserted if places[stored] not in entered)
    bulk.delete_in(connection, subjects, "lookup", unwanted)
    gone = [fresh[stored].subject for stored in unwanted]
    bulk.delete_in(connection, subject_keys, "subject", gone)
    return stale


def _stored_anew(
    connection: Connection, keys: GenerationKeys, wanted: Mapping[bytes, SubjectKey]
) -> dict[bytes, SubjectKey]:
    """Those who were new when they were read, by what a row of theirs will hold. Not those who
    stand under an earlier key: no row is written under one any more, so there will be none later.
    """
    new = [lookup for lookup, subject in wanted.items() if subject.fresh]
    if keys.is_moving:
        places = keys.places(new)
        query = "SELECT lookup FROM subjects WHERE partition = 0 AND lookup IN ({ids})"
        known = bulk.select_in(connection, query, sorted(places))
        standing = {places[bytes(row[0])] for row in known}
        new = [lookup for lookup in new if lookup not in standing]
    return {stored: wanted[lookup] for stored, lookup in zip(keys.current(new), new, strict=True)}


def use_invites(connection: Connection, appends: Sequence[Append]) -> set[str]:
    """Take one use of each invite; the sessions whose invite was used up.

    The rows are those of locked sessions, so nobody else changes them meanwhile.
    """
    refused = set()
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    statement = (
        "UPDATE invites SET uses = uses - 1 "
        f"WHERE partition = 0 AND invite = {mark} AND session_id = {mark} AND uses > 0"
    )
    for append in appends:  # at most one per session, and joining by invite is rare in a batch
        taken = connection.exec_driver_sql(statement, (append.changes.invite, append.session_id))
        if taken.rowcount == 0:
            refused.add(append.session_id)
    return refused


def write(
    connection: Connection, lookups: SubjectLookups, writing: Writing, accepted: Sequence[Append]
) -> list[str]:
    """The vault's part of a batch; the subjects who are in no session any more."""
    admitted = [(append.session_id, a) for append in accepted for a in append.changes.admitted]
    _write_index(connection, lookups, writing, accepted, admitted)
    _write_presence(connection, accepted, admitted)
    made = [append.changes.invited for append in accepted if append.changes.invited is not None]
    bulk.insert(connection, invites, ("invite", "session_id", "uses", "expires_at"), sorted(made))
    delete_stored(connection, accepted)
    write_stored(connection, writing, accepted)
    copies = outdate(connection, sorted({a.session_id for a in accepted if a.deletes}))
    return copies + _delete(connection, [a.session_id for a in accepted if a.erases])


def _lock(
    connection: Connection, places: Mapping[bytes, bytes], leaving: Sequence[str]
) -> Mapping[bytes, str]:
    """Lock subjects: exclusively if any may be deleted, else so that none can be. places: where
    somebody may stand -> their hash. Answers with those who do.

    In one statement, also those who leave: between two, a row might move under another key.
    """
    query = "SELECT lookup, subject FROM subjects WHERE partition = 0 AND "
    if connection.dialect.name == "sqlite":
        rows = bulk.select_in(connection, query + "lookup IN ({ids})", sorted(places))
    elif leaving:
        either = "(lookup = ANY(%s) OR subject = ANY(%s)) ORDER BY lookup FOR UPDATE"
        wanted = bulk.array_literal(sorted(places)), bulk.array_literal(leaving)
        rows = list(connection.exec_driver_sql(query + either, wanted))
    else:
        known = "lookup IN ({ids}) ORDER BY lookup FOR SHARE"
        rows = bulk.select_in(connection, query + known, sorted(places))
    found = {bytes(row[0]): row[1] for row in rows}
    return {places[stored]: subject for stored, subject in found.items() if stored in places}


def _subjects_of(connection: Connection, session_ids: Sequence[str]) -> list[str]:
    query = (
        "SELECT DISTINCT subject FROM subject_index WHERE partition = 0 AND session_id IN ({ids})"
    )
    return [row[0] for row in bulk.select_in(connection, query, session_ids)]


def _write_index(
    connection: Connection,
    lookups: SubjectLookups,
    writing: Writing,
    accepted: Sequence[Append],
    admitted: Sequence[tuple[str, Admission]],
) -> None:
    again = "ON CONFLICT (partition, session_id, token, subject) DO "
    bulk.insert(
        connection,
        subject_index,
        ("session_id", "token", "subject", "role", "current", "sealed"),
        [(sid, a.token, a.subject.subject, a.role, 1, a.sealed) for sid, a in admitted],
        # Somebody who takes an earlier name back.
        again + "UPDATE SET current = 1, sealed = excluded.sealed",
    )
    layers.insert(
        connection,
        writing,
        [(sid, TIER_IDENTITY, a.token, a.subject.subject, a.wrapped) for sid, a in admitted],
        layers.REPLACING,
    )
    retired = [
        (append.session_id, token, name, 0)
        for append in accepted
        for token, name in append.changes.retired
    ]
    if retired:
        _retire_names(connection, lookups, retired)
    # A room whose session ended within the batch has a new one behind it: the last one counts.
    named = {
        append.changes.alias: append.session_id
        for append in accepted
        if append.changes.alias is not None
    }
    bulk.insert(
        connection,
        aliases,
        ("lookup", "session_id"),
        sorted(named.items()),
        "ON CONFLICT (partition, lookup) DO UPDATE SET session_id = excluded.session_id",
    )


def _retire_names(
    connection: Connection,
    lookups: SubjectLookups,
    retired: Sequence[tuple[str, str, bytes, int]],
) -> None:
    """These names no longer lead to their tokens."""
    query = "SELECT lookup, subject FROM subjects WHERE partition = 0 AND lookup IN ({ids})"
    known = dict(lookups.select(connection, query, {row[2] for row in retired}))
    bulk.update(
        connection,
        subject_index,
        ("session_id", "token", "subject"),
        ("current",),
        [(sid, token, known[name], zero) for sid, token, name, zero in retired if name in known],
    )


def _write_presence(
    connection: Connection, accepted: Sequence[Append], admitted: Sequence[tuple[str, Admission]]
) -> None:
    bulk.insert(
        connection,
        presence,
        ("session_id", "token", "joined_at", "last_seen_at"),
        [
            (sid, a.token, a.joined_at, a.joined_at)
            for sid, a in admitted
            if a.joined_at is not None
        ],
        "ON CONFLICT (partition, session_id, token) DO NOTHING",
    )
    _move_forward(connection, _moves(accepted, "seen"))
    moved: list[tuple[str, str, int, int | None]]
    moved = [(sid, token, at, at) for sid, token, at in _moves(accepted, "left")]
    moved += [(sid, token, at, None) for sid, token, at in _moves(accepted, "back")]
    moved.sort(key=lambda row: row[:2])
    bulk.insert(
        connection,
        presence,
        ("session_id", "token", "joined_at", "last_seen_at", "left_at"),
        [(sid, token, at, at, left_at) for sid, token, at, left_at in moved],
        "ON CONFLICT (partition, session_id, token) DO UPDATE SET left_at = excluded.left_at",
    )


def _moves(accepted: Sequence[Append], name: str) -> list[tuple[str, str, int]]:
    """(session, token, when) of everybody in one of the mappings of `Changes`."""
    return [
        (append.session_id, token, at)
        for append in accepted
        for token, at in (getattr(append.changes, name) or {}).items()
    ]


def _move_forward(connection: Connection, seen: Sequence[tuple[str, str, int]]) -> None:
    """`last_seen_at` never moves back: a late heartbeat is no news.

    An upsert, for the reason given in event_log.py; the rows exist, they were looked up.
    """
    greatest = "max" if connection.dialect.name == "sqlite" else "greatest"
    bulk.insert(
        connection,
        presence,
        ("session_id", "token", "joined_at", "last_seen_at"),
        [(sid, token, at, at) for sid, token, at in sorted(seen)],
        "ON CONFLICT (partition, session_id, token) DO UPDATE SET "
        f"last_seen_at = {greatest}(presence.last_seen_at, excluded.last_seen_at)",
    )


_MOVE_KNOWN = (
    "INSERT INTO presence (partition, session_id, token, joined_at, last_seen_at) "
    "SELECT 0, u.session_id, u.token, u.at, u.at "
    "FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS u(session_id, token, at) "
    "WHERE EXISTS (SELECT 1 FROM presence p WHERE p.partition = 0 "
    "AND p.session_id = u.session_id AND p.token = u.token) "
    "ORDER BY u.session_id, u.token "
    "ON CONFLICT (partition, session_id, token) DO UPDATE SET "
    "last_seen_at = greatest(presence.last_seen_at, excluded.last_seen_at)"
)
"""As `_move_forward`, for those who may be unknown. Ordered, so that no two writers of the same
people wait in a circle. As long as everybody is known nothing need be read back: a heartbeat then
costs PostgreSQL and us a fifth less than with a look before."""


def _delete(connection: Connection, session_ids: Sequence[str]) -> list[str]:
    """Everything of these sessions, and subjects who are left in no session, keys included; the
    latter.

    Called only for appends that `domain/use_cases/erase.py` marked.
    """
    if not session_ids:
        return []
    leaving = _subjects_of(connection, session_ids)
    for table in (presence, subject_index, aliases, invites, data_keys, items, uploads, partials):
        bulk.delete_in(connection, table, "session_id", session_ids)
    # Joint keys too: there the subject is the session itself.
    return delete_subjects(connection, leaving) + delete_keys(connection, session_ids)


def delete_subjects(connection: Connection, leaving: Sequence[str]) -> list[str]:
    """Those of these subjects who are left in no session, keys included; who they were.

    A hold that stands lets none of their sessions go, so those of theirs are over.
    """
    query = (
        "SELECT s.subject FROM subjects s WHERE s.partition = 0 AND NOT EXISTS "
        "(SELECT 1 FROM subject_index i WHERE i.partition = 0 AND i.subject = s.subject) "
        "AND s.subject IN ({ids})"
    )
    gone = [row[0] for row in bulk.select_in(connection, query, leaving)]
    bulk.delete_in(connection, subjects, "subject", gone)
    bulk.delete_in(connection, subject_holds, "subject", gone)
    return delete_keys(connection, gone)


def delete_keys(connection: Connection, gone: Sequence[str]) -> list[str]:
    """The keys of these subjects; the same subjects."""
    bulk.delete_in(connection, subject_keys, "subject", gone)
    return list(gone)


# -- the port ---------------------------------------------------------------------------------


class SqlVault:
    """The vault behind `domain.ports.Vault`. lookups: find people, whose keys change."""

    def __init__(self, engines: Engines, lookups: SubjectLookups | None = None) -> None:
        self._engines = engines
        self._lookups = lookups or SubjectLookups(engines)

    def subjects(self, lookups: Sequence[bytes]) -> Mapping[bytes, SubjectKey]:
        query = (
            "SELECT s.lookup, s.subject, k.kek, k.wrapped FROM subjects s JOIN subject_keys k "
            "ON k.partition = s.partition AND k.subject = s.subject "
            "WHERE s.partition = 0 AND s.lookup IN ({ids})"
        )
        return {
            lookup: SubjectKey(lookup, subject, kek, bytes(wrapped), fresh=False)
            for lookup, subject, kek, wrapped in self._people(query, lookups)
        }

    def sessions_of(self, lookups: Sequence[bytes], policy: str) -> Mapping[bytes, tuple[str, str]]:
        query = (
            "SELECT s.lookup, i.session_id, i.token, t.policy, t.created_at FROM subjects s "
            "JOIN subject_index i ON i.partition = s.partition AND i.subject = s.subject "
            "JOIN sessions t ON t.partition = i.partition AND t.session_id = i.session_id "
            "WHERE s.partition = 0 AND t.phase <> 'expired' AND i.role = 'participant' "
            "AND i.current = 1 AND s.lookup IN ({ids})"
        )
        newest: dict[bytes, tuple[int, str, str]] = {}
        for key, session_id, token, name, created_at in self._people(query, lookups):
            if name == policy and (key not in newest or newest[key][0] < created_at):
                newest[key] = (created_at, session_id, token)
        return {lookup: (session_id, token) for lookup, (_, session_id, token) in newest.items()}

    def sessions_named(self, names: Sequence[bytes]) -> Mapping[bytes, str]:
        query = (
            "SELECT a.lookup, a.session_id FROM aliases a JOIN sessions s "
            "ON s.partition = a.partition AND s.session_id = a.session_id "
            "WHERE a.partition = 0 AND s.phase <> 'expired' AND a.lookup IN ({ids})"
        )
        return {bytes(row[0]): row[1] for row in self._select(query, names)}

    def tokens(self, pairs: Collection[tuple[str, bytes]]) -> Mapping[tuple[str, bytes], Member]:
        query = "SELECT lookup, subject FROM subjects WHERE partition = 0 AND lookup IN ({ids})"
        with self._engines.read() as connection:
            lookups = {lookup for _, lookup in pairs}
            subject_of = dict(self._lookups.select(connection, query, lookups))
            names = {subject: lookup for lookup, subject in subject_of.items()}
            known = bulk.select_rows(
                connection,
                subject_index,
                ("session_id", "subject"),
                ("session_id", "subject", "token", "current"),
                [(id_, subject_of[lookup]) for id_, lookup in pairs if lookup in subject_of],
            )
            current = {(row[0], row[2]): names[row[1]] for row in known if row[3]}
            rows = bulk.select_rows(
                connection,
                presence,
                ("session_id", "token"),
                ("session_id", "token", "joined_at", "last_seen_at", "left_at"),
                list(current),
            )
        return {(row[0], current[row[0], row[1]]): Member(*row) for row in rows}

    def members(self, session_id: str) -> Sequence[Member]:
        query = (
            "SELECT session_id, token, joined_at, last_seen_at, left_at FROM presence "
            "WHERE partition = 0 AND session_id IN ({ids}) ORDER BY joined_at, token"
        )
        return [Member(*row) for row in self._select(query, [session_id])]

    def identities(self, session_id: str, after: str, limit: int) -> Sequence[SealedIdentity]:
        query = (
            "SELECT p.session_id, p.token, p.joined_at, p.last_seen_at, p.left_at, "
            "s.lookup, s.subject, k.kek, k.wrapped, d.wrapped, i.sealed FROM subject_index i "
            "JOIN presence p ON p.partition = i.partition AND p.session_id = i.session_id "
            "AND p.token = i.token "
            "JOIN subjects s ON s.partition = i.partition AND s.subject = i.subject "
            "JOIN subject_keys k ON k.partition = i.partition AND k.subject = i.subject "
            "JOIN data_keys d ON d.partition = i.partition AND d.session_id = i.session_id "
            f"AND d.tier = '{TIER_IDENTITY}' AND d.token = i.token AND d.subject = i.subject "
            "WHERE i.partition = 0 AND i.session_id = {mark} AND i.token > {mark} "
            "AND i.role = 'participant' AND i.current = 1 "
            "ORDER BY i.token LIMIT {mark}"
        )
        rows = self._layered_rows(
            query,
            (session_id, after, limit),
            lambda row: ((session_id, TIER_IDENTITY, row[1], row[6]), row[9]),
        )
        return [
            SealedIdentity(
                Member(*row[:5]),
                SubjectKey(self._hash(row[5]), row[6], row[7], bytes(row[8]), fresh=False),
                wrapped=wrapped,
                sealed=bytes(row[10]),
            )
            for row, wrapped in rows
        ]

    def invite(self, name: bytes) -> Invite | None:
        query = (
            "SELECT invite, session_id, uses, expires_at FROM invites "
            "WHERE partition = 0 AND invite IN ({ids})"
        )
        rows = self._select(query, [name])
        return Invite(bytes(rows[0][0]), *rows[0][1:]) if rows else None

    def data_keys(
        self, session_id: str, tier: Scope, token: str | None = None
    ) -> Mapping[str, DataKey]:
        which = "" if token is None else "AND d.token = {mark}"
        query = (
            "SELECT d.token, k.kek, k.wrapped, d.subject, d.wrapped, s.lookup FROM data_keys d "
            "JOIN subject_keys k ON k.partition = d.partition AND k.subject = d.subject "
            "LEFT JOIN subjects s ON s.partition = d.partition AND s.subject = d.subject "
            f"WHERE d.partition = 0 AND d.session_id = {{mark}} AND d.tier = {{mark}} {which}"
        )
        values = (session_id, str(tier)) if token is None else (session_id, str(tier), token)
        rows = self._layered_rows(
            query, values, lambda row: ((session_id, str(tier), row[0], row[3]), row[4])
        )
        keys = {}
        for (whose, kek, own, subject, _, lookup), wrapped in rows:
            known = b"" if lookup is None else self._hash(lookup)
            person = SubjectKey(known, subject, kek, bytes(own), fresh=False)
            keys[whose] = DataKey(session_id, tier, whose, person, wrapped)
        return keys

    def joint(self, session_ids: Sequence[str]) -> Mapping[str, Joint]:
        query = (
            "SELECT d.session_id, d.tier, k.kek, k.wrapped, d.wrapped FROM data_keys d "
            "JOIN subject_keys k ON k.partition = d.partition AND k.subject = d.subject "
            "WHERE d.partition = 0 AND d.token = '' AND d.session_id IN ({ids})"
        )
        figures = (
            "SELECT session_id, sealed, contributors FROM partials "
            "WHERE partition = 0 AND token = '' AND session_id IN ({ids})"
        )
        with self._engines.read() as connection:
            sealing = layers.select(
                self._lookups.in_use,
                connection,
                lambda: bulk.select_in(connection, query, session_ids),
                lambda row: ((row[0], row[1], "", row[0]), row[4]),
            )
            rows = bulk.select_in(connection, figures, session_ids)
        keys: dict[str, dict[Scope, DataKey]] = {}
        for (session_id, tier, kek, own, _), wrapped in sealing:
            subject = SubjectKey(b"", session_id, kek, bytes(own), fresh=False)
            key = DataKey(session_id, Scope(tier), "", subject, wrapped)
            keys.setdefault(session_id, {})[key.tier] = key
        partials = {row[0]: Partial("", bytes(row[1]), tuple(row[2].split())) for row in rows}
        return {
            session_id: Joint(keys.get(session_id, {}), partials.get(session_id))
            for session_id in {*keys, *partials}
        }

    def taking_part(self, session_id: str, tokens: Sequence[str]) -> Mapping[str, bool]:
        pairs = [(session_id, token) for token in tokens]
        key = ("session_id", "token")
        with self._engines.read() as connection:
            rows = bulk.select_rows(connection, presence, key, ("token", "left_at"), pairs)
        return {token: left_at is None for token, left_at in rows}

    def subject_of(self, session_id: str, token: str) -> SubjectKey | None:
        if not token:
            query = "SELECT '', subject, kek, wrapped FROM subject_keys WHERE partition = 0 "
            rows = self._rows(query + "AND subject = {mark}", session_id)
        else:
            query = (
                "SELECT s.lookup, s.subject, k.kek, k.wrapped FROM subject_index i "
                "JOIN subjects s ON s.partition = i.partition AND s.subject = i.subject "
                "JOIN subject_keys k ON k.partition = i.partition AND k.subject = i.subject "
                "WHERE i.partition = 0 AND i.session_id = {mark} AND i.token = {mark} "
                "AND i.role = 'participant' AND i.current = 1"
            )
            rows = self._rows(query, session_id, token)
        for lookup, subject, kek, wrapped in rows:
            known = self._hash(lookup) if token else b""
            return SubjectKey(known, subject, kek, bytes(wrapped), fresh=False)
        return None

    def item(self, session_id: str, item_id: str, part: int) -> Item | None:
        query = (
            f"SELECT {item_rows.HEAD}, sealed FROM items "
            "WHERE partition = 0 AND session_id = {mark} AND item_id = {mark} AND part = {mark}"
        )
        for row in self._rows(query, session_id, item_id, part):
            return Item(item_rows.head(row), bytes(row[-1]))
        return None

    def items_at(
        self, places: Sequence[tuple[str, str, int]]
    ) -> Mapping[tuple[str, str, int], Item]:
        key, columns = ("session_id", "item_id", "part"), tuple(item_rows.HEAD.split(", "))
        with self._engines.read() as connection:
            wanted = ("session_id", *columns, "sealed")
            rows = bulk.select_rows(connection, items, key, wanted, places)
        return {
            (row[0], row[1], row[2]): Item(item_rows.head(row[1:]), bytes(row[-1])) for row in rows
        }

    def items(
        self, session_id: str, after: str, limit: int, kind: str | None = None
    ) -> Sequence[ItemHead]:
        which = "" if kind is None else "AND kind = {mark} "
        query = (
            f"SELECT {item_rows.HEAD} FROM items WHERE partition = 0 AND session_id = {{mark}} "
            f"AND item_id > {{mark}} AND scope <> '{Scope.CHUNKS}' {which}"
            "ORDER BY item_id LIMIT {mark}"
        )
        named = () if kind is None else (kind,)
        return [item_rows.head(row) for row in self._rows(query, session_id, after, *named, limit)]

    def upload(self, session_id: str, upload_id: str) -> Upload | None:
        query = (
            "SELECT upload_id, kind, size, created_at, participants, media_type FROM uploads "
            "WHERE partition = 0 AND session_id = {mark} AND upload_id = {mark}"
        )
        for id_, kind, size, created_at, tokens, media_type in self._rows(
            query, session_id, upload_id
        ):
            return Upload(id_, kind, size, created_at, tuple(tokens.split()), media_type)
        return None

    def counted(self, session_id: str, upload_id: str | None) -> int:
        if upload_id is None:
            query = "SELECT count(*) FROM uploads WHERE partition = 0 AND session_id = {mark}"
            rows = self._rows(query, session_id)
        else:
            query = (
                "SELECT count(*) FROM items WHERE partition = 0 AND session_id = {mark} "
                "AND item_id = {mark}"
            )
            rows = self._rows(query, session_id, upload_id)
        return int(rows[0][0])

    def chunks(self, session_id: str, upload_id: str) -> Sequence[ItemHead]:
        query = (
            f"SELECT {item_rows.HEAD} FROM items WHERE partition = 0 AND session_id = {{mark}} "
            f"AND item_id = {{mark}} AND scope = '{Scope.CHUNKS}' ORDER BY part"
        )
        return [item_rows.head(row) for row in self._rows(query, session_id, upload_id)]

    def partials(self, session_id: str, token: str | None = None) -> Sequence[Partial]:
        which = "" if token is None else "AND token = {mark} "
        query = (
            "SELECT token, sealed, contributors FROM partials "
            f"WHERE partition = 0 AND session_id = {{mark}} {which}ORDER BY token"
        )
        values = (session_id,) if token is None else (session_id, token)
        return [
            Partial(name, bytes(sealed), tuple(contributors.split()))
            for name, sealed, contributors in self._rows(query, *values)
        ]

    def _rows(self, query: str, *values: Any) -> Sequence[Any]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        with self._engines.read() as connection:
            return connection.exec_driver_sql(query.format(mark=mark), values).fetchall()

    def _layered_rows(
        self, query: str, values: tuple[Any, ...], locate: layers.Locate
    ) -> list[tuple[Any, bytes]]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        statement = query.format(mark=mark)
        with self._engines.read() as connection:
            return layers.select(
                self._lookups.in_use,
                connection,
                lambda: connection.exec_driver_sql(statement, values).fetchall(),
                locate,
            )

    def see(self, seen: Mapping[tuple[str, str], int]) -> set[tuple[str, str]]:
        """The session rows are locked against a sweep while presence moves: a heartbeat either
        comes before the decision and counts, or after it and does not."""
        ids = sorted({session_id for session_id, _ in seen})
        lock = "" if self._engines.dialect == "sqlite" else " ORDER BY session_id FOR KEY SHARE"
        live = (
            "SELECT session_id FROM sessions WHERE partition = 0 AND phase <> 'expired' "
            f"AND session_id IN ({{ids}}){lock}"
        )
        with self._engines.write() as connection:
            alive = {row[0] for row in bulk.select_in(connection, live, ids)}
            moves = sorted((*pair, at) for pair, at in seen.items() if pair[0] in alive)
            if moves and self._engines.dialect == "postgresql":
                literals = bulk.array_literals(moves)
                moved = connection.exec_driver_sql(_MOVE_KNOWN, literals).rowcount
                if moved == len(moves):
                    return {(session_id, token) for session_id, token, _ in moves}
            key = ("session_id", "token")
            pairs = [(session_id, token) for session_id, token, _ in moves]
            known = bulk.select_rows(connection, presence, key, key, pairs)
            counted = {(row[0], row[1]) for row in known}
            if self._engines.dialect == "sqlite":
                _move_forward(connection, [(*pair, seen[pair]) for pair in counted])
        return counted

    def _people(self, query: str, lookups: Sequence[bytes]) -> list[tuple[Any, ...]]:
        with self._engines.read() as connection:
            return self._lookups.select(connection, query, lookups)

    def _hash(self, stored: Buffer) -> bytes:
        return self._lookups.hash_of(bytes(stored))

    def _select(self, query: str, ids: Sequence[Any]) -> list[Any]:
        with self._engines.read() as connection:
            return bulk.select_in(connection, query, list(ids))
