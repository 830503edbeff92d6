"""OpenPose frames, read and summed up with as little code as possible.

Stillness of a person in a frame: 1 / (1 + mean movement, in pixels, of the points seen in both
frames), against whoever moved least away in the frame before; 1 where there is nothing to compare.
The order of the people in a frame is not stable, so they are put from left to right; somebody
without points is nobody.
"""

import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

Point = tuple[float, float, float]
Pose = list[Point]
Frame = list[Pose]


def cameras(archive: Path) -> dict[str, list[Frame]]:
    """The frames of each camera, in order."""
    found: dict[str, list[Frame]] = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            stream = tar.extractfile(member) if member.name.endswith(".json") else None
            if stream is not None:
                found.setdefault(Path(member.name).parent.name, []).append(_frame(stream.read()))
    return found


def _frame(text: bytes) -> Frame:
    people = json.loads(text)["people"]
    flats = [person["pose_keypoints_2d"] for person in people if person["pose_keypoints_2d"]]
    poses = [list(zip(flat[::3], flat[1::3], flat[2::3], strict=True)) for flat in flats]
    return sorted(poses, key=_middle)


def _middle(pose: Pose) -> float:
    seen = [x for x, _, sure in pose if sure > 0]
    return sum(seen) / len(seen) if seen else math.inf


def stillness(frames: Sequence[Frame]) -> Iterator[list[float]]:
    """Of each person of each frame."""
    before: Frame = []
    for frame in frames:
        yield [1 / (1 + min((_movement(pose, one) for one in before), default=0)) for pose in frame]
        before = frame


def _movement(pose: Pose, before: Pose) -> float:
    moved = [
        math.dist(now[:2], then[:2])
        for now, then in zip(pose, before, strict=True)
        if now[2] > 0 and then[2] > 0
    ]
    return sum(moved) / len(moved) if moved else 0


def average(values: Sequence[float]) -> float:
    """The mean, without rounding on the way."""
    return float(sum(map(Fraction, values)) / len(values))
