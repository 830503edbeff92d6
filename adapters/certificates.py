"""Certificates: signed statements that a session ended, or how far a request for erasure is; they
name nobody and are verifiable offline.

DSSE envelopes (https://github.com/secure-systems-lab/dsse) around canonical JSON, signed with an
Ed25519 key of their own. Each carries the inclusion proof of the deciding event and the checkpoint
that the proof leads to. The event itself is not in it, only the hash of its leaf: its actor would
link what one person had erased. For the same reason one about a request names no session, and one
about a session names no request.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapters.clock import format_instant
from adapters.keyring.keks import Kek
from adapters.keyring.signing import Signer
from adapters.log.checkpoint import Checkpoint
from adapters.log.merkle import verify_inclusion
from adapters.log.note import NoteInvalid, VerifierKey, parse_note, tree_head
from adapters.log.tree import Inclusion
from domain.erasure import ErasureRequest
from domain.explanation import Explanation, explain
from domain.policy import SECOND, Versions
from domain.ports import Recorded
from domain.session import Erased, Expired, Scope
from projections.tables import event_name

PAYLOAD_TYPE = "application/vnd.lapse.certificate+json"
KIND = "lapse-certificate/v1"


class CertificateInvalid(ValueError):
    """It is no certificate, or does not verify; the text says what does not."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sealed(statement: Mapping[str, Any], signer: Signer) -> bytes:
    """The envelope of a statement, as JSON."""
    payload = orjson.dumps(statement, option=orjson.OPT_SORT_KEYS)
    signature = {"keyid": signer.name, "sig": _base64(signer.sign(pae(PAYLOAD_TYPE, payload)))}
    envelope = {
        "payload": _base64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature],
    }
    return orjson.dumps(envelope, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"


# -- what is stated ---------------------------------------------------------------------------


def deciding(history: Sequence[Recorded]) -> Recorded | None:
    """The event that ended a session: its erasure, or else the expiry it is in. None: it lives."""
    last: Recorded | None = None
    for one in history:
        event = one.event
        if isinstance(event, Expired) or (
            isinstance(event, Erased) and event.scope is Scope.EVERYTHING
        ):
            last = one
        elif event.TOPIC == "session.recovered.v1":
            last = None
    return last


@dataclass(frozen=True)
class Residue:
    """What may still open a copy. keks: key-encryption keys that existed when it was done and are
    not destroyed yet. until: when the last of them is, in microseconds, unless keys are rotated
    late; None: none is left."""

    keks: tuple[str, ...]
    until: int | None


def residue(left: Sequence[Kek], now: int, *, rotation: int, restore_window: int) -> Residue:
    """left: those that the key store still holds. One in use is retired by the next rotation."""
    ends = [(now + rotation if k.retired_at is None else k.retired_at) for k in left]
    until = max(ends) + restore_window if ends else None
    return Residue(tuple(one.id for one in left), until)


def session_statement(
    history: Sequence[Recorded],
    ended: Recorded,
    versions: Versions,
    left: Residue | None,
    proof: Inclusion,
    checkpoint: Checkpoint,
    scanned: ErasureRequest | None = None,
) -> dict[str, Any]:
    """What a certificate says about a session. left: None for an expiry, which destroys no key.

    scanned: a request about this session after whose execution every store was read back.
    """
    event = ended.event
    why: Explanation = next(one for one in explain(history, versions) if one.recorded is ended)
    facts = vars(event)
    return {
        "kind": KIND,
        "about": "session",
        "id": event.originator_id,
        "what": event_name(event.TOPIC),
        "scope": str(facts["scope"]) if "scope" in facts else None,
        "reason": str(why.by) if why.by is not None else "rule",
        "rule": facts["rule"],
        "policy": event.policy,
        "policy_version": facts["policy_version"],
        "due_at": format_instant(event.effective_at),
        "done_at": format_instant(ended.recorded_at),
        "late_seconds": round(why.late / SECOND, 3),
        "counts": {"events": len(history), "bytes_freed": _freed(history)},
        "positions": {"first": history[0].position, "last": ended.position},
        "keks": list(left.keks) if left is not None else [],
        "residual_until": format_instant(left.until) if left is not None else None,
        "copies": "operator-declared",
        **_scan(scanned),
        "recipients": [],
        "log": _log(ended.position, proof, checkpoint),
    }


def request_statement(
    history: Sequence[Recorded],
    request: ErasureRequest,
    keks: Sequence[str],
    left: Residue | None,
    proof: Inclusion,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """What a certificate says about a request, as its facts so far say.

    keks: all that there were when it was carried out. left: None until it was.
    """
    newest = history[-1]
    return {
        "kind": KIND,
        "about": "request",
        "id": request.id,
        "what": event_name(newest.event.TOPIC),
        "status": str(request.status),
        "reason": request.reason or request.ground,
        "erases": str(request.about),
        "verified_by": str(request.verified_by),
        "requested_at": format_instant(request.requested_at),
        "deadline_at": format_instant(request.deadline_at),
        "executed_at": format_instant(request.executed_at),
        "verified_at": format_instant(request.verified_at),
        "final_at": format_instant(request.final_at),
        "refused_at": format_instant(request.refused_at),
        "counts": {
            "sessions": request.sessions,
            "parts": request.parts,
            "items": request.items,
            "subjects": request.subjects,
        },
        "positions": {"first": history[0].position, "last": newest.position},
        "keks_at_execution": list(keks),
        "keks": list(left.keks) if left is not None else [],
        "residual_until": format_instant(left.until) if left is not None else None,
        "copies": "operator-declared",
        **_scan(request),
        "recipients": [],
        "log": _log(newest.position, proof, checkpoint),
    }


def _scan(request: ErasureRequest | None) -> dict[str, Any]:
    """What the stores said when they were read back; nothing is said where nobody looked."""
    if request is None or request.verified_at is None:
        return {}
    at = format_instant(request.verified_at)
    return {"scan": {"at": at, "stores": dict(request.stores)}}


def _freed(history: Sequence[Recorded]) -> int:
    return sum(int(vars(one.event).get("bytes_freed", 0)) for one in history)


def _log(position: int, proof: Inclusion, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "origin": checkpoint.origin,
        "position": position,
        "index": proof.index,
        "leaf": _base64(proof.leaf),
        "proof": [_base64(one) for one in proof.hashes],
        "checkpoint": checkpoint.note,
    }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# -- verifying --------------------------------------------------------------------------------


def verified(envelope: bytes, key: bytes, log: VerifierKey | None = None) -> Mapping[str, Any]:
    """The statement of a certificate, once everything about it holds: the signature, the proof, and
    with `log` the signature of the checkpoint. key: the public key of certificates, 32 bytes.

    Raises CertificateInvalid.
    """
    statement = _statement(envelope, key)
    try:
        found = statement["log"]
        note = parse_note(found["checkpoint"])
        head = tree_head(note.text)
        path = [base64.b64decode(one, validate=True) for one in found["proof"]]
        leaf = base64.b64decode(found["leaf"], validate=True)
        index, origin = int(found["index"]), found["origin"]
    except (KeyError, TypeError, ValueError, NoteInvalid):
        raise CertificateInvalid("it has no proof that can be read") from None
    if head.origin != origin or not verify_inclusion(leaf, index, head.size, path, head.root):
        raise CertificateInvalid("the proof does not lead to the checkpoint")
    if log is not None and not note.is_signed_by(_of_epoch(log, origin)):
        raise CertificateInvalid("the checkpoint is not signed by the key of the log")
    return statement


def _of_epoch(log: VerifierKey, name: str) -> VerifierKey:
    """The key of the log by the name that it has in a later epoch. Who verifies kept the key once,
    under the name of the first one."""
    first, _, epoch = name.partition("/epoch-")
    return VerifierKey(name, log.public_key) if epoch and first == log.name else log


def _statement(envelope: bytes, key: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        kind = document["payloadType"]
        signatures = [base64.b64decode(one["sig"]) for one in document["signatures"]]
    except (KeyError, TypeError, ValueError):
        raise CertificateInvalid("it is no DSSE envelope") from None
    if kind != PAYLOAD_TYPE:
        raise CertificateInvalid("it is an envelope of another kind")
    if not any(_verifies(key, pae(kind, payload), one) for one in signatures):
        raise CertificateInvalid("it is not signed by this key")
    statement: Mapping[str, Any] = orjson.loads(payload)
    if statement.get("kind") != KIND:
        raise CertificateInvalid("it is a statement of another kind")
    return statement


def _verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
