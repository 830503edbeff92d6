"""Puts the HTTP application together over an open Lapse."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from fastapi import FastAPI

from adapters.background import repeating
from adapters.http.app import create_app
from adapters.http.feed import Feed
from adapters.http.requests import RequestLog
from adapters.http.service import Service, opened_heartbeats
from adapters.http.tokens import ForeignKeys, Tokens, open_signing_key
from adapters.keyring.opening import store_of
from adapters.wiring import Lapse

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
        Feed(lapse.log, lapse.engines) as feed,
    ):
        epoch = store_of(lapse.engines)
        yield create_app(Service(lapse, tokens, requests, heartbeats, epoch), feed)


def open_tokens(lapse: Lapse) -> Tokens:
    """Mints and verifies tokens with the keys that the settings name. Raises KeyUnavailable."""
    settings = lapse.settings
    key = open_signing_key(settings.key_folder)
    foreign = None
    if settings.jwks_url and settings.jwt_issuer and settings.jwt_audience:
        foreign = ForeignKeys(settings.jwks_url, settings.jwt_issuer, settings.jwt_audience)
    return Tokens(key, lapse.keyring.lookup, lapse.clock, foreign)
