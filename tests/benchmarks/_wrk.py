"""Load by wrk: C, so that beside the service on two cores it takes as little as it can."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks._service import Served

_SCRIPT = """
local requests, number = {}, 0
local headers = {
  ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN"),
  ["Content-Type"] = "application/json",
}
for body in io.lines(os.getenv("BENCH_BODIES")) do
  table.insert(requests, wrk.format("POST", os.getenv("BENCH_PATH"), headers, body))
end
request = function()
  number = number % #requests + 1
  return requests[number]
end
done = function(summary, latency)
  local failed = summary.errors
  io.write(string.format("\\nFIGURES %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
"""


@dataclass(frozen=True)
class Answered:
    """What wrk saw. seconds: of the run; p50, p99: of the time to an answer, in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def post(
    served: Served,
    path: str,
    token: str,
    bodies: Sequence[bytes],
    folder: Path,
    *,
    connections: int,
    seconds: int,
) -> Answered:
    """Post these bodies over and over again. The token goes by environment, as it would to others
    who could read it from a command line. Raises RuntimeError if one request failed."""
    script, lines = folder / "post.lua", folder / "bodies"
    script.write_text(_SCRIPT)
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    ended = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds}s", "--timeout", "30s", "--latency"),
            *("--script", str(script), served.url),
        ],
        env={**os.environ, "BENCH_TOKEN": token, "BENCH_PATH": path, "BENCH_BODIES": str(lines)},
        capture_output=True,
        text=True,
        check=True,
    )
    [figures] = [line for line in ended.stdout.splitlines() if line.startswith("FIGURES")]
    requests, duration, p50, p99, failed = map(int, figures.split()[1:])
    if failed or not requests:
        raise RuntimeError(f"{failed} of {requests} requests to {path} failed")
    return Answered(requests, duration / 1e6, p50 / 1e6, p99 / 1e6)
