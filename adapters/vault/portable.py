"""What a person gets: the files of a copy of all that is held about them (GDPR Art. 15 and 20).

Everything that is here and not due to be gone yet, expired or held or not. What is about others is
theirs: an item that names somebody else too is listed, and its content is in the copy only where
the policy keeps shared items whole (`shared = "keep"`; Art. 15(4)). Tokens of others never are.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import orjson

from adapters.clock import format_instant
from adapters.documents import version_document
from adapters.keyring.aead import wipe
from domain.access import Involvement
from domain.policy import in_force
from domain.ports import Found, Holdings, ItemHead, Keyring, Log, Place, Summaries, Upload, Vault
from domain.session import Event, Scope
from domain.timeline import taken
from domain.use_cases.access import Entry, Tally
from domain.use_cases.policies import PolicyBook
from domain.use_cases.sessions import Sessions, View

PAGE = 200
_SUMMARY = "summary"
_WITHHELD = "it is about others too (GDPR Art. 15(4))"


class Portable:
    """Reads what is held of somebody, page by page."""

    def __init__(
        self,
        holdings: Holdings,
        log: Log,
        vault: Vault,
        keyring: Keyring,
        sessions: Sessions,
        policies: PolicyBook,
        summaries: Summaries,
    ) -> None:
        self._holdings = holdings
        self._log = log
        self._vault = vault
        self._keyring = keyring
        self._sessions = sessions
        self._policies = policies
        self._summaries = summaries

    def sessions(self, subject: str) -> list[str]:
        """All sessions of somebody, as owner and as participant."""
        return sorted({place.session_id for place in self._holdings.places(subject)})

    def entries(
        self, subject: str, sessions: Collection[str], now: int, tally: Tally
    ) -> Iterator[Entry]:
        """The files of the copy. What is due by now is left out, swept or not.

        sessions: those that whoever erases knows the copy to be of; into others they came since.
        """
        yield Entry("about.json", [_json(_about(now))])
        known = frozenset(sessions)
        places = [one for one in self._holdings.places(subject) if one.session_id in known]
        for session_id, those in groupby(places, key=lambda place: place.session_id):
            found = self._log.find([session_id]).get(session_id)
            if found is None:
                continue
            view = self._sessions.seen_as(found, now)
            if view.session.erased_at is None:
                tally.sessions += 1
                tally.until(view.forecast.erases_at)
                yield from _OfSession(self, found, view, list(those), now, tally).entries()


class _OfSession:
    """One session of somebody."""

    def __init__(
        self,
        of: Portable,
        found: Found,
        view: View,
        places: Sequence[Place],
        now: int,
        tally: Tally,
    ) -> None:
        self._of = of
        self._found = found
        self._view = view
        self._places = places
        self._now = now
        self._tally = tally
        self._id = found.session.id
        self._involvement = Involvement(
            frozenset(place.token for place in places if place.role != "owner"),
            owns=any(place.role == "owner" for place in places),
        )
        self._versions = of._policies.versions(found.session.policy)
        self._policy = in_force(self._versions, now).policy
        self._ends: dict[tuple[Scope, int], tuple[int | None, str | None]] = {}

    def entries(self) -> Iterator[Entry]:
        folder = f"sessions/{self._id}"
        yield Entry(f"{folder}/session.json", [_json(self._document())])
        yield Entry(f"{folder}/items.jsonl", self._listed())
        yield Entry(f"{folder}/records.jsonl", self._records())
        for head in self._heads():
            if head.count is None and self._may_have(head):
                yield Entry(f"{folder}/files/{head.item_id}", self._content(head))
        for upload in self._uploads():
            if self._may_have(upload):
                yield Entry(f"{folder}/uploads/{upload.upload_id}", self._chunks(upload))

    # -- what it says -------------------------------------------------------------------------

    def _document(self) -> Mapping[str, Any]:
        session, ahead = self._view.session, self._view.forecast
        members = self._of._holdings.members(self._id, self._involvement.tokens)
        version = in_force(self._versions, self._now)
        return {
            "id": self._id,
            "roles": sorted({place.role for place in self._places}),
            "names": [self._name(place) for place in self._places],
            "presence": [
                {
                    "token": one.token,
                    "joined_at": format_instant(one.joined_at),
                    "last_seen_at": format_instant(one.last_seen_at),
                    "left_at": format_instant(one.left_at),
                }
                for one in members
            ],
            "state": str(session.phase),
            "tier": str(session.tier),
            "created_at": format_instant(session.created_at),
            "last_seen_at": format_instant(self._view.last_seen),
            "expires_at": format_instant(ahead.expires_at),
            "erases_at": format_instant(ahead.erases_at),
            "rule": ahead.rule,
            "held": session.held,
            "source": "the application that opened the session and stored in it",
            "purpose": {"policy": session.policy, **version_document(version)},
            "figures": self._figures(),
            "history": list(self._history()),
        }

    def _name(self, place: Place) -> Mapping[str, Any]:
        identity = self._of._keyring.open_identity(
            place.subject, self._id, place.token, place.wrapped, place.sealed
        )
        subject, _, name = identity.partition("\0")
        return {
            "role": place.role,
            "token": place.token,
            "subject": subject,
            "name": name or None,
            "current": place.current,
        }

    def _history(self) -> Iterator[Mapping[str, Any]]:
        """What happened to the session and to them; what others did is theirs."""
        theirs = {place.token for place in self._places} | {None}
        for recorded in self._of._log.history(self._id):
            event = recorded.event
            if isinstance(event, Event) and getattr(event, "token", None) in theirs:
                yield {
                    "event": event.TOPIC.split(".")[1],
                    "at": format_instant(event.effective_at),
                    "rule": getattr(event, "rule", None),
                }

    def _figures(self) -> Mapping[str, Any] | None:
        """Figures of their own records, and of those of nobody where the session is theirs."""
        tokens = self._involvement.tokens | ({""} if self._involvement.owns else set())
        if Scope.SUMMARY in self._view.session.erased or not self._policy.summary:
            return None
        keys = self._of._vault.data_keys(self._id, Scope.SUMMARY)
        partials = [
            one
            for one in self._of._vault.partials(self._id)
            if one.token in tokens and one.token in keys
        ]
        opened = [
            self._of._keyring.open(keys[one.token], _SUMMARY, "partial", one.sealed)
            for one in partials
        ]
        if not opened:
            return None
        began = self._found.session.created_at
        figures = self._of._summaries.figures(self._policy.summary, opened, began)
        wipe(*opened)
        return figures

    # -- what is stored -----------------------------------------------------------------------

    def _heads(self) -> Iterator[ItemHead]:
        """Items about them but for chunks, and those of nobody where the session is theirs."""
        after = ("", -1)
        while page := self._of._holdings.heads(self._id, after, PAGE):
            for head in page:
                if head.scope is not Scope.CHUNKS and self._involvement.is_about(head.participants):
                    erases_at, _ = self._end(head.scope, head.stored_at)
                    if erases_at is None or erases_at > self._now:
                        yield head
            after = (page[-1].item_id, page[-1].part)

    def _uploads(self) -> Sequence[Upload]:
        uploads = self._of._holdings.uploads(self._id)
        return [one for one in uploads if self._involvement.is_about(one.participants)]

    def _may_have(self, one: ItemHead | Upload) -> bool:
        return self._involvement.may_have(one.participants, self._policy.shared)

    def _end(self, scope: Scope, stored_at: int) -> tuple[int | None, str | None]:
        """When something stored then is erased, and by which rule."""
        if (scope, stored_at) not in self._ends:
            session, last_seen = self._found.session, self._found.last_seen
            event = taken(session, self._versions, last_seen, scope, stored_at)
            at = event.effective_at if event is not None else None
            self._ends[scope, stored_at] = (at, getattr(event, "rule", None))
        return self._ends[scope, stored_at]

    def _listed(self) -> Iterator[bytes]:
        for head in self._heads():
            erases_at, rule = self._end(head.scope, head.stored_at)
            self._tally.items += 1
            self._tally.until(erases_at)
            yield self._line(
                head,
                id=head.item_id,
                tier=str(head.scope),
                count=head.count,
                stored_at=format_instant(head.stored_at),
                erases_at=format_instant(erases_at),
                rule=rule,
            )
        for upload in self._uploads():
            parts = list(self._parts(upload))
            ends = [self._end(one.scope, one.stored_at)[0] for one in parts]
            for end in ends:
                self._tally.until(end)
            self._tally.items += 1
            yield self._line(
                upload,
                id=upload.upload_id,
                tier=str(Scope.CHUNKS),
                size=upload.size,
                chunks=[one.part for one in parts],
                stored_at=format_instant(upload.created_at),
                erases_at=format_instant(min((end for end in ends if end), default=None)),
            )

    def _line(self, one: ItemHead | Upload, **fields: Any) -> bytes:
        shared = self._involvement.is_about_others(one.participants)
        line = {
            "kind": one.kind,
            "media_type": one.media_type,
            "about": "others too" if shared else "nobody" if not one.participants else "you",
            "withheld": None if self._may_have(one) else _WITHHELD,
            **fields,
        }
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def _records(self) -> Iterator[bytes]:
        for head in self._heads():
            if head.count is not None and self._may_have(head):
                start = {"item": head.item_id, "kind": head.kind}
                yield orjson.dumps(start)[:-1] + b',"records":'
                yield from self._content(head)
                yield b"}\n"

    def _content(self, head: ItemHead) -> Iterator[bytes]:
        """Nothing if it was erased since it was listed."""
        of = self._of
        item = of._vault.item(self._id, head.item_id, head.part)
        key = of._vault.data_keys(self._id, head.scope, head.token).get(head.token)
        if item is None or key is None:
            yield b"" if head.count is None else b"null"
            return
        opened = of._keyring.open(key, head.item_id, str(head.part), item.sealed)
        yield bytes(opened)
        wipe(opened)

    def _parts(self, upload: Upload) -> Iterator[ItemHead]:
        """The chunks that are here and not due."""
        for chunk in self._of._vault.chunks(self._id, upload.upload_id):
            erases_at, _ = self._end(chunk.scope, chunk.stored_at)
            if erases_at is None or erases_at > self._now:
                yield chunk

    def _chunks(self, upload: Upload) -> Iterator[bytes]:
        for chunk in self._parts(upload):
            yield from self._content(chunk)


def _about(now: int) -> Mapping[str, Any]:
    return {
        "format": "lapse/access/v1",
        "made_at": format_instant(now),
        "contents": {
            "sessions/ID/session.json": "who you were there, what for (the policy), until when, "
            "by which rule, and what happened",
            "sessions/ID/items.jsonl": "what is stored, when it is erased and by which rule",
            "sessions/ID/records.jsonl": "stored records",
            "sessions/ID/files, uploads": "stored bytes, named as in items.jsonl; the type stands "
            "there",
        },
        "recipients": [],
        "left_out": "what is only about others, and the content of what is about others too unless "
        "the policy says `shared = keep`",
    }


def _json(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
