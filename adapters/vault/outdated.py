"""What erases anything of a session takes the copies that hold something of it.

Apart from adapters/vault/copies.py, since the log's transaction calls it.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import access_parts, access_sessions, subject_keys


def outdate(connection: Connection, session_ids: Sequence[str]) -> list[str]:
    """Take the copies that hold anything of these sessions, keys included; whose those were.

    Called only inside a transaction that erases something of these sessions. What a request is
    about stays until its copy was made once: it will be made anew.
    """
    query = "SELECT request_id FROM access_sessions WHERE partition = 0 AND session_id IN ({ids})"
    copies = sorted({row[0] for row in bulk.select_in(connection, query, session_ids)})
    if not copies:
        return []
    of_these = "WHERE partition = 0 AND request_id IN ({ids})"
    if connection.dialect.name == "postgresql":
        lock = f"SELECT 1 FROM access_requests {of_these} ORDER BY request_id FOR UPDATE"
        bulk.select_in(connection, lock, copies)
    bulk.execute_in(
        connection,
        "UPDATE access_requests SET wrapped = NULL, due_at = 0, "
        "status = CASE WHEN status = 'ready' THEN 'outdated' ELSE status END "
        f"{of_these}",
        copies,
    )
    for table in (access_parts, access_sessions):
        bulk.delete_in(connection, table, "request_id", copies)
    bulk.delete_in(connection, subject_keys, "subject", copies)
    return copies
