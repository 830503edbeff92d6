"""An S3 of the tests' own, over loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moto.server import ThreadedMotoServer
from obstore.store import S3Store

_NAME = "lapse-tests"


@dataclass(frozen=True)
class Bucket:
    """A bucket that exists, and the address of its server."""

    name: str
    url: str

    @property
    def environment(self) -> dict[str, str]:
        """How an S3 client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def store(self, prefix: str) -> S3Store:
        """Everything below one prefix."""
        return S3Store(
            self.name,
            prefix=prefix,
            endpoint=self.url,
            access_key_id="test",
            secret_access_key="test",  # noqa: S106 - any will do
            region="us-east-1",
            client_options={"allow_http": True},
        )


@contextmanager
def open_bucket() -> Iterator[Bucket]:
    """A server with an empty bucket, while the block runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        bucket = Bucket(_NAME, f"http://{host}:{port}")
        _create(bucket)
        yield bucket
    finally:
        server.stop()


def _create(bucket: Bucket) -> None:
    """A PUT on the bucket itself: the client library has no word for it."""
    import httpx2

    httpx2.put(f"{bucket.url}/{bucket.name}").raise_for_status()
