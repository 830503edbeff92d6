"""Issues certificates from what the log, the tree and the key store say."""

import structlog

from adapters.certificates import deciding, residue, sealed, session_statement
from adapters.wiring import Lapse
from domain.errors import EvidenceUnavailable, LapseError
from domain.policy import parse_duration
from domain.session import Erased

_log = structlog.get_logger(component="certificates")


class NotEnded(LapseError):
    """There is no certificate: nothing is known of the session, or it has not ended."""

    def __str__(self) -> str:
        return "there is no certificate: no such session is known, or it has not ended"


def session_certificate(lapse: Lapse, session_id: str, now: int) -> bytes:
    """The certificate of a session that expired or was erased, also put into the evidence store.

    Asked again it states the same facts; proof, checkpoint and remaining keys may be newer. Raises
    NotEnded, KeyUnavailable, LogForked.
    """
    history = lapse.log.history(session_id)
    ended = deciding(history)
    if ended is None:
        raise NotEnded
    event = ended.event
    checkpoint = lapse.checkpoints.latest()
    if checkpoint is None or lapse.tree.standing().index(ended.position) >= checkpoint.size:
        checkpoint = lapse.checkpoints.make(now)
    left = None
    if isinstance(event, Erased):
        left = residue(
            lapse.keyring.keks.keks(),
            ended.recorded_at,
            now,
            rotation=parse_duration(lapse.settings.key_rotation),
            restore_window=parse_duration(lapse.settings.restore_window),
        )
    proof = lapse.tree.inclusion(ended.position, checkpoint.size)
    versions = lapse.log.policies()[event.policy]
    statement = session_statement(history, ended, versions, left, proof, checkpoint)
    made = sealed(statement, lapse.signers.certificates)
    if lapse.evidence is not None:
        try:
            lapse.evidence.put_certificate(session_id, made)
        except EvidenceUnavailable as error:  # whoever asks gets theirs all the same
            _log.error("certificate", operation="publish", result="failed", error=error.why)
    return made
