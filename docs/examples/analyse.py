#!/usr/bin/env python3
"""Stands in for the application that analyses: counts the frames of an uploaded video.

    LAPSE_TOKEN="$(lapse token --role producer --policy video-analysis)" \\
      python3 analyse.py URL SESSION UPLOAD

The video goes from the service straight into ffmpeg's standard input and is never written to a
file. It needs nothing but ffmpeg and Python's standard library. The token comes from the
environment, since command lines can be read by others.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.client import HTTPResponse
from typing import IO, Any

WIDTH, HEIGHT = 32, 18
FRAME = WIDTH * HEIGHT
"""Bytes of a frame after ffmpeg made it small and grey."""
TELL_EVERY = 25
FFMPEG = (
    *("ffmpeg", "-loglevel", "error", "-i", "pipe:0", "-an"),
    *("-vf", f"scale={WIDTH}:{HEIGHT}", "-pix_fmt", "gray", "-f", "rawvideo", "pipe:1"),
)


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
    frames, brightness, movement = 0, 0.0, 0.0
    before = b""
    with subprocess.Popen(FFMPEG, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin is not None
        assert ffmpeg.stdout is not None
        feeding = threading.Thread(target=feed, args=(session, upload, ffmpeg.stdin))
        feeding.start()
        while len(frame := ffmpeg.stdout.read(FRAME)) == FRAME:
            frames += 1
            brightness += sum(frame) / FRAME / 255
            if before:
                movement += sum(map(abs, map(int.__sub__, frame, before))) / FRAME / 255
            before = frame
            if frames % TELL_EVERY == 0:
                session.tell("analysis_progress", frames=frames)
        feeding.join()
    if frames == 0:
        raise ValueError("there is no frame in it")
    session.tell("frames_extracted", frames=frames)
    return {
        "frames": frames,
        "brightness": round(brightness / frames, 4),
        "movement": round(movement / max(1, frames - 1), 4),
    }


def feed(session: Session, upload: str, to: IO[bytes]) -> None:
    """The video as it comes. ffmpeg may end before it: then there is nothing more to read."""
    with to, session.ask("GET", f"/uploads/{upload}/content") as content:
        try:
            shutil.copyfileobj(content, to)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    if len(sys.argv) != 4 or "LAPSE_TOKEN" not in os.environ:
        sys.exit(__doc__)
    main(*sys.argv[1:])
