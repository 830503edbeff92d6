"""Tokens of an identity provider: whose keys are read over HTTP, and what is made of them."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from adapters.http.tokens import (
    ForeignKeys,
    Role,
    TokenExpired,
    TokenInvalid,
    Tokens,
    open_signing_key,
)
from domain.errors import KeyUnavailable
from domain.policy import HOUR, MINUTE, SECOND

NOW = 1_800_000_000 * SECOND
ISSUER, AUDIENCE = "https://login.example.org", "lapse.example.org"


class Provider:
    """An identity provider on loopback."""

    def __init__(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(provider.status)
                self.end_headers()
                keys = [key.as_dict(private=False) for key in provider.keys]
                self.wfile.write(json.dumps({"keys": keys}).encode())

            def log_message(self, *_: Any) -> None:
                """Nothing on standard error."""

        self.asked = 0
        self.status = 200
        self.keys: list[Any] = [OKPKey.generate_key("Ed25519", parameters={"kid": "ed"})]
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"

    def token(self, key: Any, algorithm: str, **changes: Any) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ann@example.org",
            "exp": NOW // SECOND + 60,
            "role": "producer",
        } | changes
        header = {"alg": algorithm, "kid": key.kid}
        return jwt.encode(header, claims, key, algorithms=[algorithm])


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    thread = Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(provider: Provider, clock: Clock, tmp_path: Path) -> Tokens:
    key = open_signing_key(tmp_path)
    foreign = ForeignKeys(provider.url, ISSUER, AUDIENCE)
    return Tokens(key, lambda kind, name: f"{kind}{name}".encode().ljust(16), clock, foreign)


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: OKPKey.generate_key("Ed25519", parameters={"kid": "a"}), "Ed25519"),
        (lambda: ECKey.generate_key("P-256", parameters={"kid": "a"}), "ES256"),
        (lambda: RSAKey.generate_key(2048, parameters={"kid": "a"}), "RS256"),
    ],
)
def test_a_token_of_the_provider_is_accepted(
    provider: Provider, tokens: Tokens, make: Callable[[], Any], algorithm: str
) -> None:
    """With the algorithms that providers use; who it is stays a keyed hash."""
    key = make()
    provider.keys = [key]
    principal = tokens.verify(provider.token(key, algorithm, policies=["web-visit"]))
    assert (principal.role, principal.policies) == (Role.PRODUCER, frozenset({"web-visit"}))


def test_our_own_tokens_are_good_beside_them(provider: Provider, tokens: Tokens) -> None:
    """Participants' tokens are always ours."""
    own = tokens.mint(Role.OPERATOR, HOUR, "somebody")
    assert tokens.verify(own).role is Role.OPERATOR
    assert provider.asked == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.example.org"},
        {"aud": "another-service"},
        {"exp": NOW // SECOND - 6},
        {"exp": None},
        {"sub": None},
        {"role": "root"},
        {"role": None},
        {"role": "participant", "session": "0" * 32, "participant": "1" * 32},
        {"role": "invite", "session": "0" * 32},
        {"policies": "web-visit"},
        {"policies": ["Web Visit"]},
        {"nbf": NOW // SECOND + 3_600},
    ],
)
def test_a_token_that_is_not_for_us_is_refused(
    provider: Provider, tokens: Tokens, changes: dict[str, Any]
) -> None:
    """Another issuer, audience, time, or a role that only we give."""
    [key] = provider.keys
    claims = {name: value for name, value in changes.items() if value is not None}
    token = provider.token(key, "Ed25519", **claims)
    if None in changes.values():
        [gone] = changes
        head = {"alg": "Ed25519", "kid": key.kid}
        whole = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ann@example.org",
            "exp": NOW // SECOND + 60,
            "role": "producer",
        }
        del whole[gone]
        token = jwt.encode(head, whole, key, algorithms=["Ed25519"])
    with pytest.raises(TokenInvalid) as refused:
        tokens.verify(token)
    assert "ann" not in str(refused.value)


def test_a_symmetric_key_is_none(provider: Provider, tokens: Tokens) -> None:
    """HS256 under a public key is the classic forgery."""
    from joserfc.jwk import OctKey

    [key] = provider.keys
    public = json.dumps(key.as_dict(private=False)).encode()
    forged = OctKey.import_key(public, parameters={"kid": "ed"})
    with pytest.raises(TokenInvalid):
        tokens.verify(provider.token(forged, "HS256"))


def test_a_new_key_of_the_provider_is_fetched_and_a_flood_is_not(
    provider: Provider, tokens: Tokens
) -> None:
    """An unknown key id makes us look, but not again and again."""
    [key] = provider.keys
    tokens.verify(provider.token(key, "Ed25519"))
    asked = provider.asked
    for number in range(5):
        stranger = OKPKey.generate_key("Ed25519", parameters={"kid": f"x{number}"})
        with pytest.raises(TokenInvalid):
            tokens.verify(provider.token(stranger, "Ed25519"))
    assert provider.asked == asked


def test_while_the_provider_is_away_its_keys_stay_good(
    provider: Provider, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again when they are old; an error leaves those that were read."""
    [key] = provider.keys
    tokens.verify(provider.token(key, "Ed25519", sub="a"))
    provider.status = 500
    monkeypatch.setattr("adapters.http.tokens.JWKS_TERM", -1.0)
    tokens.verify(provider.token(key, "Ed25519", sub="b"))
    assert provider.asked == 2


def test_what_was_verified_is_not_good_beyond_its_end(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    """It is remembered for a minute at most, and never longer than it lives."""
    own = tokens.mint(Role.PRODUCER, 30 * SECOND, "somebody")
    tokens.verify(own)
    clock.now = NOW + MINUTE
    with pytest.raises(TokenExpired):
        tokens.verify(own)


def test_the_signing_key_is_kept_safe(tmp_path: Path) -> None:
    """Made once, for its owner alone; damaged or readable by others it is refused."""
    first = open_signing_key(tmp_path)
    path = tmp_path / "tokens.jwk.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_signing_key(tmp_path).kid == first.kid
    path.chmod(0o644)
    with pytest.raises(KeyUnavailable, match="chmod 600"):
        open_signing_key(tmp_path)
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(KeyUnavailable, match="damaged"):
        open_signing_key(tmp_path)
