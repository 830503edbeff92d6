"""How object stores are asked, whatever is kept there."""

import os
from typing import Any
from urllib.parse import urlsplit

CREDENTIALS = (
    "credentials of an object store go into its own variables, AWS_ACCESS_KEY_ID and so on"
)
"""What whoever wrote them into a URL is told: URLs of settings are shown."""


def is_bucket(url: str) -> bool:
    """Whether this is `s3://bucket/prefix`, without credentials in it."""
    parts = urlsplit(url)
    named = parts.scheme == "s3" and bool(parts.hostname)
    return named and "@" not in parts.netloc and not parts.query


def client_options() -> Any:
    """A `ClientConfig` of obstore, bounded, since somebody waits for the answer.

    Options of ours take the place of all that the library would read from the environment, so what
    operators set there, that a store is asked without TLS, is read here.
    """
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return {"timeout": "10s", "connect_timeout": "5s", "allow_http": plain}
