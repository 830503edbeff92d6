"""Asks a witness to cosign a checkpoint: somebody else who saw that the log only ever grew.

The protocol is C2SP tlog-witness: the checkpoint goes there with a proof that it continues the last
one the witness saw; a witness that was shown another log refuses. https://c2sp.org/tlog-witness
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapters.log.note import Note, NoteInvalid, VerifierKey, parse_note, verifier_key
from adapters.log.note import base64_lines as lines_of
from domain.errors import SettingsInvalid

if TYPE_CHECKING:
    import httpx2 as httpx

SECONDS = 5.0
"""How long a witness may take to answer."""

_MOST = 65_536
"""Bytes of an answer that are read at most."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class WitnessFailed(Exception):
    """A witness did not cosign. The text names its key and what it answered."""


@dataclass(frozen=True)
class Witness:
    """key: whose cosignature counts. url: before `/add-checkpoint`."""

    key: VerifierKey
    url: str

    def cosigned(
        self, note: Note, size: int, consistency: Callable[[int], Sequence[bytes]]
    ) -> Note:
        """The checkpoint with the witness's line. consistency: proves that it continues the tree of
        a smaller size. Raises WitnessFailed."""
        if note.is_signed_by(self.key):
            return note
        answer = self._ask(note, 0, ())
        if answer.status_code == 409:  # it saw an earlier one, and says which
            old = self._size(answer, size)
            answer = self._ask(note, old, consistency(old))
        if answer.status_code != 200:
            raise WitnessFailed(f"{self.key.name} answers {answer.status_code}")
        try:
            offered = parse_note(f"{note.text}\n{answer.text}")
        except NoteInvalid:
            raise WitnessFailed(f"{self.key.name} answers with no signature") from None
        for line in offered.lines:
            one = Note(note.text, (line,))
            if one.is_signed_by(self.key):
                return Note(note.text, (*note.lines, line))
        raise WitnessFailed(f"{self.key.name} answers with another's signature")

    def _ask(self, note: Note, old: int, proof: Sequence[bytes]) -> "httpx.Response":
        import httpx2 as httpx  # noqa: PLC0415 - an HTTP client, rarely used

        body = f"old {old}\n{lines_of(proof)}\n{note}"
        try:
            with httpx.Client(timeout=SECONDS, trust_env=False) as client:
                answer = client.post(f"{self.url}/add-checkpoint", content=body.encode())
        except httpx.HTTPError as error:
            raise WitnessFailed(f"{self.key.name}: {type(error).__name__}") from None
        if len(answer.content) > _MOST:
            raise WitnessFailed(f"{self.key.name} answers with too much")
        return answer

    def _size(self, answer: "httpx.Response", size: int) -> int:
        text = answer.text.strip()
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > size:
            raise WitnessFailed(f"{self.key.name} saw another log: it knows a larger tree")
        return int(text)


def parse_witness(text: str) -> Witness:
    """`VERIFIER-KEY URL`. Raises SettingsInvalid."""
    key_text, _, url = text.strip().partition(" ")
    try:
        key = verifier_key(key_text)
    except NoteInvalid as error:
        raise SettingsInvalid(f"LAPSE_WITNESSES: {error}") from None
    parts = urlsplit(url.strip())
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not key.cosigner or not secure or not parts.hostname or "@" in parts.netloc:
        raise SettingsInvalid(
            "LAPSE_WITNESSES: write `NAME+HASH+KEY https://host/prefix` for each, the key being "
            "one for cosignatures (its type is 4)"
        )
    return Witness(key, url.strip().rstrip("/"))
