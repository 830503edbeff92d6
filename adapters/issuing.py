"""Issues certificates from what the log, the tree, the requests and the key store say."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from adapters.certificates import (
    Residue,
    deciding,
    request_statement,
    residue,
    sealed,
    session_statement,
)
from adapters.keyring.keks import Kek
from adapters.log.checkpoint import Checkpoint
from adapters.log.tree import Inclusion
from adapters.wiring import Lapse
from domain.erasure import project
from domain.errors import EvidenceUnavailable, LapseError, RequestUnknown
from domain.facts import Fact
from domain.policy import parse_duration
from domain.ports import Recorded
from domain.session import Erased
from projections.tables import event_name

_log = structlog.get_logger(component="certificates")


class NotEnded(LapseError):
    """There is no certificate: nothing is known of the session, or it has not ended."""

    def __str__(self) -> str:
        return "there is no certificate: no such session is known, or it has not ended"


def certificate(lapse: Lapse, id_: str, now: int) -> bytes:
    """The certificate of the request or the session with this id. Raises as the two below."""
    try:
        return request_certificate(lapse, id_, now)
    except RequestUnknown:
        return session_certificate(lapse, id_, now)


def session_certificate(lapse: Lapse, session_id: str, now: int) -> bytes:
    """The certificate of a session that expired or was erased, also put into the evidence store.

    Asked again it states the same facts; proof, checkpoint, remaining keys and the scan may be
    newer. Raises NotEnded, KeyUnavailable, LogForked.
    """
    history = lapse.log.history(session_id)
    ended = deciding(history)
    if ended is None:
        raise NotEnded
    left = scanned = None
    if isinstance(ended.event, Erased):
        left = _residue(lapse, now, lambda kek: _existed(kek, ended.recorded_at))
        scanned = lapse.requests.verified_about(session_id)
    versions = lapse.log.policies()[ended.event.policy]
    proof, checkpoint = _proven(lapse, ended, now)
    return _issued(
        lapse, session_statement(history, ended, versions, left, proof, checkpoint, scanned), ended
    )


def request_certificate(lapse: Lapse, request_id: str, now: int) -> bytes:
    """The certificate of a request for erasure: how far it is, and what it took, in figures. Also
    put into the evidence store.

    Raises RequestUnknown, KeyUnavailable, LogForked.
    """
    history = lapse.log.history(request_id)
    keks = lapse.requests.find(request_id).keks  # no older than the history
    request = project(None, tuple(one.event for one in history if isinstance(one.event, Fact)))
    left = None
    if request.executed_at is not None:
        left = _residue(lapse, now, lambda kek: kek.id in keks)
    else:
        keks = ()  # a first step may be done, but it is not over
    proof, checkpoint = _proven(lapse, history[-1], now)
    statement = request_statement(history, request, keks, left, proof, checkpoint)
    return _issued(lapse, statement, history[-1])


def _existed(kek: Kek, at: int) -> bool:
    return kek.created_at is None or kek.created_at <= at


def _residue(lapse: Lapse, now: int, counts: Callable[[Kek], bool]) -> Residue:
    return residue(
        [kek for kek in lapse.keyring.keks.keks() if counts(kek)],
        now,
        rotation=parse_duration(lapse.settings.key_rotation),
        restore_window=parse_duration(lapse.settings.restore_window),
    )


def _proven(lapse: Lapse, recorded: Recorded, now: int) -> tuple[Inclusion, Checkpoint]:
    """That this stands in the log, under a checkpoint that covers it."""
    checkpoint = lapse.checkpoints.over(recorded.position, now)
    return lapse.tree.inclusion(recorded.position, checkpoint.size), checkpoint


def _issued(lapse: Lapse, statement: Mapping[str, Any], newest: Recorded) -> bytes:
    """Signed, and kept as evidence. The first that certifies an event is kept: the facts are the
    same in every later one, so the name tells the event apart."""
    made = sealed(statement, lapse.signers.certificates)
    if lapse.evidence is not None:
        what = event_name(newest.event.TOPIC).replace(".", "-")
        name = f"{newest.event.originator_id}-{what}-{newest.position}"
        try:
            lapse.evidence.put_certificate(name, made)
        except EvidenceUnavailable as error:  # whoever asks gets theirs all the same
            _log.error("certificate", operation="publish", result="failed", error=error.why)
    return made
