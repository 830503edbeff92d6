"""How object stores are asked, whatever is kept there."""

import os
from typing import Any


def client_options() -> Any:
    """A `ClientConfig` of obstore, bounded, since somebody waits for the answer.

    Options of ours take the place of all that the library would read from the environment, so what
    operators set there, that a store is asked without TLS, is read here.
    """
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return {"timeout": "10s", "connect_timeout": "5s", "allow_http": plain}
