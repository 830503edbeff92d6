"""What becomes of what several people share when one of them is erased.

The policy's `shared` says it, of items that name more people than the one who goes:

    erase   the item goes
    redact  records that name the person go, the others are sealed anew; bytes go
    keep    the item stays, without the person's token - if at least five others share it, else as
            with `redact`

A record names a person if its field `participant` is their token, or the list in its field
`participants` has it. An item names whom its records name (`domain/use_cases/items.py`); one that
was stored before that held is looked into. Where records name people, those that name nobody who
stays go as well: they may be about whoever goes.

Joint figures (of items that name nobody or several) are made anew from what is left while the full
tier is whole; else they go, unless `keep` allows to leave them: counts, sums and means with at
least five other contributors, in which nobody can be told apart.

Once something that the joint key sealed is taken away, whatever else it sealed gets another key:
the old one opens, in no copy of the database, what went.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domain.errors import SealBroken
from domain.policy import Do, RetentionPolicy, Shared, Since, Versions, in_force
from domain.ports import (
    Belongings,
    Buffer,
    DataKey,
    Item,
    ItemHead,
    Joint,
    Keyring,
    Partial,
    Summaries,
    Upload,
    Vault,
)
from domain.session import Scope, Session

FEWEST = 5
"""Contributors that must be left for `keep`: among fewer, one may be told apart."""
SOMEBODY = "-"
"""Stands among the participants of an item for all of its people who were erased, so that an item
which named several stays one of several: it is the joint key that seals it."""
MOST_AHEAD = 8 * 2**20
"""Bytes of shared items that are read at once for a page of sessions; the rest comes one by one."""
MOST_RESEALED = 64 * 2**20
"""Bytes of one tier that are sealed anew at most: they pass through memory. Beyond it the joint
key stays, and what went under it opens for whoever has an old copy and the living key."""
SUMMARY = "summary"
"""The item under whose name partial figures are sealed."""
_TOKEN = re.compile("[0-9a-f]{32}")
_LINEAR = ("count(", "sum(", "mean(")


@dataclass(frozen=True)
class Rewrite:
    """What goes, and what takes the place of what stays; see `Part`."""

    items: tuple[str, ...] = ()
    rewritten: tuple[Item, ...] = ()
    uploads: tuple[str, ...] = ()
    renamed: tuple[Upload, ...] = ()
    keys: tuple[DataKey, ...] = ()
    partial: Partial | None = None


@dataclass(frozen=True)
class Ahead:
    """What is read at once for all sessions of a page: what is joint in each, and shared items by
    (session, id, part), as many as fit."""

    joint: Mapping[str, Joint]
    items: Mapping[tuple[str, str, int], Item]


@dataclass
class _Work:
    """A rewrite as it comes together. touched: tiers of which the joint key sealed what goes.
    batch: items that were read for one look. is_unlisted: whether records named the person in an
    item that does not."""

    joint: Joint
    ahead: Ahead
    batch: Mapping[tuple[str, str, int], Item] = field(default_factory=dict)
    is_unlisted: bool = False
    items: dict[str, None] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    renamed: list[Upload] = field(default_factory=list)
    contents: dict[tuple[str, int], tuple[ItemHead, bytearray]] = field(default_factory=dict)
    heads: dict[tuple[str, int], ItemHead] = field(default_factory=dict)
    touched: set[Scope] = field(default_factory=set)


class Redaction:
    """Decides and rewrites; writes nothing."""

    def __init__(self, vault: Vault, keyring: Keyring, summaries: Summaries) -> None:
        self._vault = vault
        self._keyring = keyring
        self._summaries = summaries

    def read_ahead(self, found: Iterable[Belongings]) -> Ahead:
        """For `rewrite` of each of these. Raises StoreError."""
        page, places, size = list(found), [], 0
        for one in page:
            for head in one.items:
                size += 0 if head.token or head.count is None else head.size
                if not head.token and head.count is not None and size <= MOST_AHEAD:
                    places.append((one.session_id, head.item_id, head.part))
        joint = self._vault.joint([one.session_id for one in page])
        return Ahead(joint, self._vault.items_at(places))

    def rewrite(
        self, session: Session, versions: Versions, found: Belongings, ahead: Ahead, now: int
    ) -> Rewrite:
        """What becomes of what `found` holds when the person goes. What was tampered with cannot be
        redacted, and goes. Raises SealBroken if joint figures were."""
        policy = in_force(versions, now).policy
        work = _Work(ahead.joint.get(session.id, Joint({}, None)), ahead)
        gone = set(found.tokens)
        for upload in found.uploads:
            self._upload(upload, policy.shared, gone, work)
        uploads = {upload.upload_id for upload in found.uploads}
        for head in found.items:
            if head.item_id not in uploads and gone & set(head.participants):
                self._item(session.id, head, policy.shared, gone, work)
        for head in self._unlisted(session.id, found, gone, work):
            work.is_unlisted = True
            self._unlisted_item(session.id, head, policy.shared, gone, work)
        touched = {
            head.scope
            for head in found.items
            if not head.token and head.item_id in (*work.items, *work.uploads)
        }
        work.touched |= touched
        partial = self._joint(session, versions, policy, found, work)
        return self._sealed(session, found, work, partial)

    # -- items ------------------------------------------------------------------------------

    def _upload(self, upload: Upload, shared: Shared, gone: set[str], work: _Work) -> None:
        others = _others(upload.participants, gone)
        if shared is Shared.KEEP and len(others) >= FEWEST:
            work.renamed.append(replace(upload, participants=others))
        else:
            work.uploads.append(upload.upload_id)

    def _item(
        self, session_id: str, head: ItemHead, shared: Shared, gone: set[str], work: _Work
    ) -> None:
        others, place = _others(head.participants, gone), (head.item_id, head.part)
        stays = [one for one in others if one != SOMEBODY]
        if not stays or shared is Shared.ERASE:
            work.items[head.item_id] = None
        elif shared is Shared.KEEP and len(stays) >= FEWEST:
            work.heads[place] = replace(head, participants=others)
        elif head.count is None:
            work.items[head.item_id] = None
        else:
            self._redact(session_id, head, others, gone, work)

    def _redact(
        self, session_id: str, head: ItemHead, others: tuple[str, ...], gone: set[str], work: _Work
    ) -> None:
        try:
            plaintext = self._opened(session_id, head, work)
        except SealBroken:
            work.items[head.item_id] = None  # nobody can read it, so nobody can redact it
            return
        records = json.loads(plaintext)
        kept = _kept(records, head.participants, gone)
        place = (head.item_id, head.part)
        if not kept:
            work.items[head.item_id] = None
        elif len(kept) == len(records):
            work.heads[place] = replace(head, participants=others)
        else:
            changed = replace(head, participants=others, count=len(kept))
            work.contents[place] = (changed, bytearray(_canonical(kept)))
            work.touched.add(head.scope)
        plaintext[:] = bytes(len(plaintext))

    def _unlisted_item(
        self, session_id: str, head: ItemHead, shared: Shared, gone: set[str], work: _Work
    ) -> None:
        if shared is Shared.ERASE:
            work.items[head.item_id] = None
        elif shared is not Shared.KEEP or len(head.participants) < FEWEST:
            self._redact(session_id, head, head.participants, gone, work)

    def _unlisted(
        self, session_id: str, found: Belongings, gone: set[str], work: _Work
    ) -> Iterator[ItemHead]:
        """Items under the joint key that do not name the person, while their records do: the first
        `MOST_RESEALED` bytes are looked into, `MOST_AHEAD` at once."""
        looked_into = 0
        batch: list[ItemHead] = []
        for head in found.items:
            if head.token or head.count is None or gone & set(head.participants):
                continue
            looked_into += head.size
            if looked_into > MOST_RESEALED:
                break
            if sum(one.size for one in batch) + head.size > MOST_AHEAD:
                yield from self._naming(session_id, batch, gone, work)
                batch = []
            batch.append(head)
        yield from self._naming(session_id, batch, gone, work)

    def _naming(
        self, session_id: str, heads: Sequence[ItemHead], gone: set[str], work: _Work
    ) -> Iterator[ItemHead]:
        """Those of these whose records name somebody who goes."""
        places = [(session_id, head.item_id, head.part) for head in heads]
        unread = [place for place in places if place not in work.ahead.items]
        work.batch = self._vault.items_at(unread) if unread else {}
        for head in heads:
            try:
                plaintext = self._opened(session_id, head, work)
            except SealBroken:
                continue  # nobody can read it, so it names nobody
            # Looked for as bytes first: most items name nobody, and parsing takes ten times longer.
            is_likely = any(token.encode() in plaintext for token in gone)
            if is_likely and any(names(record, gone) for record in json.loads(plaintext)):
                yield head
            plaintext[:] = bytes(len(plaintext))
        work.batch = {}

    def _item_at(self, session_id: str, head: ItemHead, work: _Work) -> Item | None:
        place = (session_id, head.item_id, head.part)
        known = work.ahead.items.get(place) or work.batch.get(place)
        return known or self._vault.item(session_id, head.item_id, head.part)

    def _opened(self, session_id: str, head: ItemHead, work: _Work) -> bytearray:
        item, key = self._item_at(session_id, head, work), work.joint.keys.get(head.scope)
        if item is None or key is None:
            return bytearray(b"[]")  # gone meanwhile: whoever writes this is told to decide again
        return self._keyring.open(key, head.item_id, str(head.part), item.sealed)

    # -- joint figures ----------------------------------------------------------------------

    def _joint(
        self,
        session: Session,
        versions: Versions,
        policy: RetentionPolicy,
        found: Belongings,
        work: _Work,
    ) -> tuple[bytearray | bytes | None, tuple[str, ...]] | None:
        """The joint figures in clear, with their contributors; None if they stay as they are."""
        gone = set(found.tokens)
        if found.contributors is None:
            return None
        if not work.is_unlisted and not gone & set(found.contributors):
            return None
        others = tuple(one for one in found.contributors if one not in gone)
        linear = all(call.startswith(_LINEAR) for call in policy.summary.values())
        if policy.shared is Shared.KEEP and linear and len(others) >= FEWEST:
            return self._partial(work), others
        work.touched.add(Scope.SUMMARY)
        if not _is_whole(session, versions):
            return None, ()
        return self._anew(session.id, policy, found, work), others

    def _partial(self, work: _Work) -> bytearray | None:
        key, partial = work.joint.keys.get(Scope.SUMMARY), work.joint.partial
        if key is None or partial is None:
            return None
        return self._keyring.open(key, SUMMARY, "partial", partial.sealed)

    def _anew(
        self, session_id: str, policy: RetentionPolicy, found: Belongings, work: _Work
    ) -> bytes | None:
        """The joint figures of the records that are left."""
        partial: bytes | None = None
        for head in sorted(found.items, key=lambda head: (head.stored_at, head.item_id)):
            if head.token or head.count is None or head.scope is not Scope.FULL:
                continue
            if head.item_id in work.items:
                continue
            place = (head.item_id, head.part)
            rewritten = work.contents.get(place)
            plaintext = rewritten[1] if rewritten else self._opened(session_id, head, work)
            records = json.loads(plaintext)
            partial = self._summaries.add(policy.summary, partial, records, head.stored_at)
            if rewritten is None:
                plaintext[:] = bytes(len(plaintext))
        return partial

    # -- sealing ----------------------------------------------------------------------------

    def _sealed(
        self,
        session: Session,
        found: Belongings,
        work: _Work,
        joint: tuple[bytearray | bytes | None, tuple[str, ...]] | None,
    ) -> Rewrite:
        """Everything that stays under joint keys whose tier was touched is sealed anew."""
        keys: dict[Scope, DataKey] = {}
        rewritten: list[Item] = []
        left = [
            head
            for head in found.items
            if not head.token and head.item_id not in (*work.items, *work.uploads)
        ]
        for tier in sorted(work.touched):
            key = work.joint.keys.get(tier)
            size = sum(head.size for head in left if head.scope is tier)
            if key is not None and size <= MOST_RESEALED:
                subject = replace(key.subject, fresh=False)
                keys[tier] = self._keyring.new_data_key(subject, session.id, tier, "")
        renamed = {upload.upload_id: upload for upload in work.renamed}
        for head in left:
            place = (head.item_id, head.part)
            changed = work.heads.get(place, head)
            if head.item_id in renamed:
                changed = replace(head, participants=renamed[head.item_id].participants)
            if place in work.contents or head.scope in keys:
                rewritten.append(self._resealed(session.id, head, changed, work, keys))
            elif changed is not head:
                item = self._item_at(session.id, head, work)
                if item is not None:
                    rewritten.append(Item(changed, item.sealed))
        partial = self._sealed_partial(found, work, joint, keys)
        return Rewrite(
            tuple(work.items),
            tuple(rewritten),
            tuple(work.uploads),
            tuple(work.renamed),
            tuple(keys.values()),
            partial,
        )

    def _resealed(
        self,
        session_id: str,
        head: ItemHead,
        changed: ItemHead,
        work: _Work,
        keys: Mapping[Scope, DataKey],
    ) -> Item:
        known = work.contents.get((head.item_id, head.part))
        try:
            changed, plaintext = known or (changed, self._opened(session_id, head, work))
        except SealBroken:  # it opens under no key, and stays as it is
            broken = self._item_at(session_id, head, work)
            return Item(changed, broken.sealed if broken is not None else b"")
        key = keys.get(head.scope) or work.joint.keys[head.scope]
        sealed = self._keyring.seal(key, head.item_id, str(head.part), plaintext)
        plaintext[:] = bytes(len(plaintext))
        return Item(replace(changed, size=len(sealed)), sealed)

    def _sealed_partial(
        self,
        found: Belongings,
        work: _Work,
        joint: tuple[Buffer | None, tuple[str, ...]] | None,
        keys: Mapping[Scope, DataKey],
    ) -> Partial | None:
        if joint is None and found.contributors is None:
            return None
        if joint is None and Scope.SUMMARY not in keys:
            return work.joint.partial
        content, contributors = joint or (self._partial(work), found.contributors or ())
        if content is None:
            return None
        key = keys.get(Scope.SUMMARY) or work.joint.keys[Scope.SUMMARY]
        return Partial("", self._keyring.seal(key, SUMMARY, "partial", content), contributors)


def named_by(record: Any) -> Iterator[str]:
    """Whom a record names: its field `participant`, and the list in its field `participants`."""
    if not isinstance(record, Mapping):
        return
    several = record.get("participants")
    listed: Iterable[Any] = several if isinstance(several, list) else ()
    yield from (one for one in (record.get("participant"), *listed) if isinstance(one, str))


def names(record: Any, tokens: Collection[str]) -> bool:
    """Whether a record names somebody of these tokens."""
    return any(one in tokens for one in named_by(record))


def tokens_in(records: Iterable[Any]) -> tuple[str, ...]:
    """What may be tokens among the names in records, each once. Other names can be anything, even
    text that no database takes."""
    found = (one for record in records for one in named_by(record) if _TOKEN.fullmatch(one))
    return tuple(dict.fromkeys(found))


def _kept(records: Sequence[Any], participants: Sequence[str], gone: set[str]) -> list[Any]:
    """The records that stay, of an item that names these."""
    stays = set(participants) - gone
    left = [record for record in records if not names(record, gone)]
    if not any(names(record, participants) for record in records):
        return left
    return [record for record in left if names(record, stays)]


def _others(participants: Sequence[str], gone: set[str]) -> tuple[str, ...]:
    """Who stays; at least two, so that the joint key stays the one that seals it."""
    others = tuple(one for one in participants if one not in gone)
    return (*others, SOMEBODY) if len(others) == 1 else others


def _is_whole(session: Session, versions: Versions) -> bool:
    """Whether every record is still there that the joint figures were made of."""
    if Scope.FULL in session.erased:
        return False
    return not any(
        rule.do is Do.ERASE and rule.since is Since.STORED and rule.scope is Scope.FULL
        for version in versions
        for rule in version.policy.rules
    )


def _canonical(records: Sequence[Any]) -> bytes:
    return json.dumps(records, separators=(",", ":"), ensure_ascii=False).encode()
