#!/usr/bin/env python3
"""Stands in for the application that analyses: counts the frames of an uploaded video.

    LAPSE_TOKEN="$(lapse token --role producer --policy video-analysis)" \\
      python3 analyse.py URL SESSION UPLOAD

The video goes into memory, not into a file: Linux' memfd, since many videos have their index at the
end, and ffmpeg cannot go back in a pipe. It needs nothing but ffmpeg and Python's standard library.
The token comes from the environment, since command lines can be read by others.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from http.client import HTTPResponse
from typing import Any

WIDTH, HEIGHT = 32, 18
FRAME = WIDTH * HEIGHT
"""Bytes of a frame after ffmpeg made it small and grey."""
TELL_EVERY = 25
GREY = ("-vf", f"scale={WIDTH}:{HEIGHT}", "-pix_fmt", "gray", "-f", "rawvideo")


class Session:
    """One session of a service, asked as a producer."""

    def __init__(self, url: str, session: str, token: str) -> None:
        self._path = f"{url}/v1/sessions/{session}"
        self._token = token

    def ask(self, method: str, path: str, body: Any = None) -> HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._path + path, content, headers, method=method)  # noqa: S310
        answer: HTTPResponse = urllib.request.urlopen(request)  # noqa: S310 - the URL that was given
        return answer

    def tell(self, kind: str, **numbers: float) -> None:
        self.ask("POST", "/progress", {"type": kind, "data": numbers}).close()


def main(url: str, session_id: str, upload: str) -> None:
    session = Session(url.rstrip("/"), session_id, os.environ["LAPSE_TOKEN"])
    session.tell("processing_started")
    try:
        result = analyse(session, upload)
    except (OSError, ValueError, subprocess.SubprocessError):
        session.tell("error")
        session.ask("POST", "/fail", {"reason": "invalid"}).close()
        raise
    session.ask(
        "POST", "/items", {"kind": "result", "tier": "summary", "records": [result]}
    ).close()
    session.tell("analysis_complete", frames=result["frames"])
    session.ask("POST", "/complete").close()


def analyse(session: Session, upload: str) -> dict[str, float]:
    """Frames, and mean brightness and movement from 0 to 1."""
    frames, brightness, movement = 0, 0, 0
    before = b""
    with os.fdopen(os.memfd_create("video"), "w+b") as video:
        with session.ask("GET", f"/uploads/{upload}/content") as content:
            shutil.copyfileobj(content, video)
        video.flush()
        source = f"/proc/self/fd/{video.fileno()}"
        command = ["ffmpeg", "-loglevel", "error", "-i", source, "-an", *GREY, "pipe:1"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, pass_fds=[video.fileno()]
        ) as ffmpeg:
            assert ffmpeg.stdout is not None
            while len(frame := ffmpeg.stdout.read(FRAME)) == FRAME:
                frames += 1
                brightness += sum(frame)
                movement += sum(abs(now - then) for now, then in zip(frame, before, strict=False))
                before = frame
                if frames % TELL_EVERY == 0:
                    session.tell("analysis_progress", frames=frames)
    if frames == 0:
        raise ValueError("there is no frame in it")
    session.tell("frames_extracted", frames=frames)
    return {
        "frames": frames,
        "brightness": round(brightness / (255 * FRAME * frames), 4),
        "movement": round(movement / (255 * FRAME * max(1, frames - 1)), 4),
    }


if __name__ == "__main__":
    if len(sys.argv) != 4 or "LAPSE_TOKEN" not in os.environ:
        sys.exit(__doc__)
    main(*sys.argv[1:])
