"""Puts the HTTP application together over an open Lapse."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
from fastapi import FastAPI
from joserfc.jwk import OKPKey

from adapters.background import repeating
from adapters.http.app import create_app
from adapters.http.feed import Feed
from adapters.http.requests import RequestLog
from adapters.http.service import Service, opened_heartbeats
from adapters.http.tokens import ForeignKeys, Tokens, new_signing_key, open_signing_key
from adapters.keyring.known import KeptSecrets
from adapters.keyring.opening import store_of
from adapters.wiring import Lapse

SIGNING_KEY = "tokens"
FORGET_SECONDS = 3_600.0
"""How often months of the log of requests that are over their term are looked for."""


@contextmanager
def open_http(lapse: Lapse) -> Iterator[FastAPI]:
    """The application; at the end what waits is written. Raises KeyUnavailable."""
    tokens = open_tokens(lapse)
    with (
        closing(RequestLog(lapse.engines)) as requests,
        closing(opened_heartbeats(lapse)) as heartbeats,
        repeating("forget", lambda: requests.forget(lapse.clock()), FORGET_SECONDS, first=0),
        Feed(lapse.log, lapse.engines, lapse.keyring.shared_key("progress")) as feed,
    ):
        store = store_of(lapse.engines)
        yield create_app(Service(lapse, tokens, requests, heartbeats, store), feed)


def open_tokens(lapse: Lapse) -> Tokens:
    """Mints and verifies tokens with the keys that the settings name. Raises KeyUnavailable."""
    settings = lapse.settings
    key = _signing_key(lapse)
    foreign = None
    if settings.jwks_url and settings.jwt_issuer and settings.jwt_audience:
        foreign = ForeignKeys(settings.jwks_url, settings.jwt_issuer, settings.jwt_audience)
    return Tokens(key, lapse.keyring.lookup, lapse.clock, foreign)


def _signing_key(lapse: Lapse) -> OKPKey:
    """Beside the key file; with Vault, which is no place for it, wrapped in the database."""
    store = lapse.settings.key_store
    if isinstance(store, Path):
        return open_signing_key(store)
    kept = KeptSecrets(lapse.engines, lapse.keyring.keks, store_of(lapse.engines))
    secret = kept.get(SIGNING_KEY) or kept.put_new(SIGNING_KEY, new_signing_key())
    return OKPKey.import_key(orjson.loads(secret))
