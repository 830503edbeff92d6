"""`lapse key`: the key-encryption keys (KEKs) that wrap all others."""

import time
from typing import Any

from adapters.cli.errors import refusals
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table
from adapters.clock import format_instant
from adapters.keyring.rotation import Rotation
from adapters.wiring import open_lapse, require_database
from domain.policy import format_duration, parse_duration

_COLUMNS = ("id", "created_at", "retired_at", "destroy_at", "rows")


def status(db: Database = None, as_json: Json = False) -> None:
    """Say which keys there are, since when, until when, and how many wrapped keys name each."""
    with refusals(), open_lapse(load(db), create=False) as lapse:
        rotation, settings = lapse.rotation(), lapse.settings
        found: dict[str, Any] = {
            "keks": _keks(rotation),
            "moving": rotation.is_unfinished(),
            "rotation": format_duration(parse_duration(settings.key_rotation)),
            "restore_window": format_duration(parse_duration(settings.restore_window)),
            "escrow": rotation.escrow(),
        }
    if as_json:
        print_json(found)
        return
    print_table(
        "Key-encryption keys, the current one last",
        _COLUMNS,
        [[one[name] for name in _COLUMNS] for one in found["keks"]],
    )
    if found["escrow"] is not None:
        console.print(f"the escrow of the key file is {found['escrow']}")
    if found["moving"]:
        console.print("wrapped keys are being moved; `lapse serve` begins anew what was killed")


def _keks(rotation: Rotation) -> list[dict[str, Any]]:
    return [
        {
            "id": kek.id,
            "created_at": format_instant(kek.created_at),
            "retired_at": format_instant(kek.retired_at),
            "destroy_at": format_instant(kek.destroy_at),
            "rows": kek.rows,
        }
        for kek in rotation.status()
    ]


def rotate(db: Database = None, as_json: Json = False) -> None:
    """Make a new key-encryption key now and move every wrapped key under it. The service may go on
    meanwhile."""
    with refusals():
        settings = load(db)
        require_database(settings)
        began = time.perf_counter()
        with open_lapse(settings, create=False) as lapse:
            done = lapse.rotation().rotate()
        seconds = round(time.perf_counter() - began, 3)
        if as_json:
            print_json({**vars(done), "seconds": seconds})
        else:
            print_table("Rotated", ("kek", "moved", "kept"), [[done.kek, done.moved, done.kept]])
