"""Who asks: JSON Web Tokens (RFC 7519), signed with Ed25519 (RFC 8037, RFC 9864) by Lapse itself,
or by the identity provider behind LAPSE_JWKS_URL.

Claims: `iss`, `aud`, `sub`, `exp` as usual; `role`, one of `Role`; `policies`, the names a token is
limited to (absent: all); `session` and `participant` for participants. An invite is such a token
too: its `sub` is a secret.
"""

import hashlib
import os
import re
import secrets
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import structlog
from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import KeySet, OKPKey

from domain.errors import KeyUnavailable
from domain.policy import DAY, MINUTE, SECOND
from domain.session import NEVER

_log = structlog.get_logger(component="tokens")

LOCAL = "lapse"
"""Issuer and audience of tokens that Lapse signs itself."""
LONGEST = 365 * DAY
"""How long a token of ours may live."""
LEEWAY = 5
"""Seconds by which clocks of issuers may differ from ours."""
REMEMBERED = MINUTE
"""How long a verified token is not verified again."""
MOST_REMEMBERED = 10_000
JWKS_TERM = 300.0
"""Seconds until the keys of the identity provider are read again."""
JWKS_PAUSE = 10.0
"""Seconds at least between two readings, so that unknown key ids cannot make us a client under
attack."""
_LOCAL_ALGORITHMS = ["Ed25519"]
_FOREIGN_ALGORITHMS = ["Ed25519", "EdDSA", "ES256", "ES384", "RS256", "PS256"]
_LONGEST_TOKEN = 8_192
_NAME = re.compile(r"[a-z0-9_-]{1,40}")


class Role(StrEnum):
    """What a token may be used for."""

    PRODUCER = "producer"
    SUBSCRIBER = "subscriber"
    AUDITOR = "auditor"
    PRIVACY = "privacy"
    OPERATOR = "operator"
    ADMIN = "admin"
    PARTICIPANT = "participant"
    INVITE = "invite"


@dataclass(frozen=True)
class Principal:
    """Who asks. actor: how the log knows them, a keyed hash of issuer and subject.

    policies: the only ones it may touch (None: all). session: of a participant or an invite.
    participant: the participant's token. invite: the invite's secret. expires_at: when the token
    does, microseconds.
    """

    actor: str
    role: Role
    policies: frozenset[str] | None = None
    session: str | None = None
    participant: str | None = None
    invite: str | None = None
    expires_at: int = NEVER


class TokenInvalid(Exception):
    """A token is refused. `str()` says why, without the token."""


class TokenExpired(TokenInvalid):
    """It was good once."""


class Tokens:
    """Mints and verifies tokens.

    key: ours. lookup: the keyring's keyed hash. clock: microseconds. foreign: keys of the identity
    provider, if there is one.
    """

    def __init__(
        self,
        key: OKPKey,
        lookup: Callable[[str, str], bytes],
        clock: Callable[[], int],
        foreign: "ForeignKeys | None" = None,
    ) -> None:
        self._key = key
        self._own = KeySet([key])
        self._lookup = lookup
        self._clock = clock
        self._foreign = foreign
        self._verified: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        self._lock = threading.Lock()

    def mint(
        self,
        role: Role,
        ttl: int,
        subject: str,
        *,
        policies: Sequence[str] | None = None,
        session: str | None = None,
        participant: str | None = None,
    ) -> str:
        """A signed token. ttl: microseconds, at most `LONGEST`. subject: who it is for."""
        now = self._clock() // SECOND
        claims: dict[str, Any] = {
            "iss": LOCAL,
            "aud": LOCAL,
            "sub": subject,
            "iat": now,
            "exp": now + max(1, min(ttl, LONGEST) // SECOND),
            "role": str(role),
        }
        more = {"policies": policies, "session": session, "participant": participant}
        claims.update({name: value for name, value in more.items() if value is not None})
        header = {"alg": "Ed25519", "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=_LOCAL_ALGORITHMS)

    def verify(self, token: str) -> Principal:
        """Who holds this token. Raises TokenInvalid.

        A signature costs 0.4 ms to check and a client comes again and again, so the answer is kept
        for a minute, or until the token expires; under a hash, since a token is a password.
        """
        if len(token) > _LONGEST_TOKEN:
            raise TokenInvalid("it is too long")
        name, now = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), self._clock()
        with self._lock:
            principal, until = self._verified.get(name, (None, 0))
            if principal is not None and now < until:
                self._verified.move_to_end(name)
                return principal
        principal, expires_at = self._verify(token)
        with self._lock:
            self._verified[name] = (principal, min(expires_at, now + REMEMBERED))
            if len(self._verified) > MOST_REMEMBERED:
                self._verified.popitem(last=False)
        return principal

    def proven(self, token: str) -> Principal:
        """Who this token was made for, also if it has expired since: whoever holds it still is who
        they were (GDPR Art. 11). Raises TokenInvalid."""
        if len(token) > _LONGEST_TOKEN:
            raise TokenInvalid("it is too long")
        return self._verify(token, late=LONGEST // SECOND)[0]

    def _verify(self, token: str, late: int = 0) -> tuple[Principal, int]:
        """The principal, and when the token expires. late: seconds that it may have expired by."""
        kid = _key_id(token)
        foreign = self._foreign if self._foreign is not None and kid != self._key.kid else None
        issuer, audience = (foreign.issuer, foreign.audience) if foreign else (LOCAL, LOCAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # providers still name EdDSA, which is Ed25519
                decoded = jwt.decode(
                    token,
                    foreign.having(kid) if foreign else self._own,
                    algorithms=_FOREIGN_ALGORITHMS if foreign else _LOCAL_ALGORITHMS,
                )
            jwt.JWTClaimsRegistry(
                now=self._clock() // SECOND,
                leeway=late + (LEEWAY if foreign else 0),
                iss={"essential": True, "value": issuer},
                aud={"essential": True, "value": audience},
                sub={"essential": True},
                exp={"essential": True},
            ).validate(decoded.claims)
        except ExpiredTokenError:
            raise TokenExpired("it has expired") from None
        except (JoseError, ValueError, TypeError, KeyError):
            raise TokenInvalid("it is not signed by a known key, or not for Lapse") from None
        return self._principal(decoded.claims), int(decoded.claims["exp"]) * SECOND

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        try:
            role = Role(claims["role"])
        except (KeyError, ValueError):
            raise TokenInvalid("it names no role of Lapse") from None
        policies = claims.get("policies")
        if policies is not None and not _are_names(policies):
            raise TokenInvalid("its policies are not a list of names")
        session, participant = claims.get("session"), claims.get("participant")
        if role is Role.PARTICIPANT and not (
            isinstance(session, str) and isinstance(participant, str) and claims["iss"] == LOCAL
        ):
            raise TokenInvalid("a participant's token names its session and participant")
        if role is Role.INVITE and not (isinstance(session, str) and claims["iss"] == LOCAL):
            raise TokenInvalid("an invite names its session")
        subject = f"{claims['iss']}\0{claims['sub']}"
        return Principal(
            actor=self._lookup("actor", subject)[:16].hex(),
            role=role,
            policies=None if policies is None else frozenset(policies),
            session=session if role in (Role.PARTICIPANT, Role.INVITE) else None,
            participant=participant if role is Role.PARTICIPANT else None,
            invite=str(claims["sub"]) if role is Role.INVITE else None,
            expires_at=int(claims["exp"]) * SECOND,
        )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str) and _NAME.fullmatch(name) for name in value
    )


def _key_id(token: str) -> str | None:
    """The `kid` of the header, not verified yet."""
    try:
        kid = jws.extract_compact(token.encode()).headers().get("kid")
    except (JoseError, ValueError, TypeError, AttributeError):
        raise TokenInvalid("it is no JSON Web Token") from None
    return kid if isinstance(kid, str) else None


# -- our own key ------------------------------------------------------------------------------


def open_signing_key(folder: Path) -> OKPKey:
    """The key that signs our tokens, made at the first start: `tokens.jwk.json`, mode 0600.

    Raises KeyUnavailable.
    """
    path = folder / "tokens.jwk.json"
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read_key(path)
        key = new_signing_key()
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return OKPKey.import_key(orjson.loads(key))
    except OSError as error:
        raise KeyUnavailable(
            f"the key that signs tokens, {path.name} in the key folder, cannot be read or made "
            f"({error.strerror})"
        ) from None


def new_signing_key() -> bytes:
    """A key that signs tokens, as a JSON Web Key (RFC 7517)."""
    kid = f"lapse-{secrets.token_hex(8)}"
    key = OKPKey.generate_key("Ed25519", parameters={"kid": kid, "use": "sig"})
    return orjson.dumps(key.as_dict(private=True))


def _read_key(path: Path) -> OKPKey:
    if path.stat().st_mode & 0o077:
        raise KeyUnavailable(f"{path.name} may be read by other users: run chmod 600 on it")
    try:
        return OKPKey.import_key(orjson.loads(path.read_bytes()))
    except (ValueError, JoseError, TypeError, KeyError):
        raise KeyUnavailable(
            f"{path.name} in the key folder is damaged: restore it, or delete it to make a new "
            "key; tokens signed with the old one are void then"
        ) from None


# -- the identity provider's keys -------------------------------------------------------------


class ForeignKeys:
    """The key set of an identity provider (RFC 7517), read again now and then."""

    def __init__(self, url: str, issuer: str, audience: str) -> None:
        self.issuer = issuer
        self.audience = audience
        self._url = url
        self._lock = threading.Lock()
        self._keys = KeySet([])
        self._read_at = -JWKS_TERM

    def having(self, kid: str | None) -> KeySet:
        """The keys; read again when they are old, or when none has this id."""
        with self._lock:
            age = time.monotonic() - self._read_at
            known = any(key.kid == kid for key in self._keys.keys)
            if age >= JWKS_TERM or (not known and age >= JWKS_PAUSE):
                self._read_at = time.monotonic()
                self._read()
            return self._keys

    def _read(self) -> None:
        """What was read before stays in use when the provider cannot be reached."""
        try:
            answer = httpx.get(self._url, timeout=5.0)
            answer.raise_for_status()
            self._keys = KeySet.import_key_set(answer.json())
        except (httpx.HTTPError, ValueError, JoseError, KeyError, TypeError) as error:
            _log.error("jwks", operation="read", result=type(error).__name__)
