"""The tables of Lapse's own log, its folded state, the vault and the keyring.

`partition` stands in every key and every hot statement because a distributed PostgreSQL needs it as
distribution column; until then only partition 0 is accepted. Times are integers (microseconds,
UTC), stored bytes are BYTEA/BLOB: what is hashed must come back as it went in. The projections
(`projections/`) bring their own tables.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql

metadata = MetaData()

# Ids and names are compared byte by byte, whatever the locale of the server.
Name = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _partition() -> Column[int]:
    return Column("partition", SmallInteger, primary_key=True, autoincrement=False)


# -- the log ----------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    _partition(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("session_id", Name, nullable=False),
    Column("version", Integer, nullable=False),
    Column("topic", Name, nullable=False),
    Column("effective_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    # The hash of all the others but the position, see adapters/log/merkle.py.
    Column("leaf", LargeBinary, nullable=False),
    Index("events_by_session", "partition", "session_id", "version", unique=True),
    CheckConstraint("partition = 0", name="only_partition_0"),
    # Append-only and read in order of position: rows lie in the primary key itself.
    sqlite_with_rowid=False,
)

heads = Table(
    "heads",
    metadata,
    _partition(),
    Column("position", BigInteger, nullable=False),
)

# Events whose bodies went when their time was over: what proofs need of them stays.
pruned = Table(
    "pruned",
    metadata,
    _partition(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("pruned_at", BigInteger, nullable=False),
)

# -- the tree over the log, see adapters/log/tree.py ------------------------------------------

trees = Table(
    "trees",
    metadata,
    _partition(),
    Column("epoch", Integer, nullable=False),
    # How many leaves the tiles hold.
    Column("size", BigInteger, nullable=False),
    # Leaf 0 of a tree that was begun by a restore; it commits to the tree before.
    Column("epoch_leaf", LargeBinary),
)

tiles = Table(
    "tiles",
    metadata,
    _partition(),
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("tile", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _partition(),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("signed_at", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)

# -- folded state -----------------------------------------------------------------------------

sessions = Table(
    "sessions",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("policy", Name, nullable=False),
    Column("phase", Name, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("failures", SmallInteger, nullable=False, server_default=text("0")),
    Column("owner_subject", Name),
    Column("stored_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("state", LargeBinary, nullable=False),
    Index(
        "sessions_by_deadline", "partition", "due_at", postgresql_where=text("due_at IS NOT NULL")
    ),
    Index(
        "sessions_by_owner",
        "partition",
        "owner_subject",
        "created_at",
        postgresql_where=text("owner_subject IS NOT NULL"),
    ),
    # Whom an emergency looks at: those that are finished, then the others.
    Index(
        "sessions_storing_finished",
        "partition",
        "created_at",
        sqlite_where=text("stored_bytes > 0 AND phase <> 'active'"),
        postgresql_where=text("stored_bytes > 0 AND phase <> 'active'"),
    ),
    Index(
        "sessions_storing_active",
        "partition",
        "last_seen_at",
        sqlite_where=text("stored_bytes > 0 AND phase = 'active'"),
        postgresql_where=text("stored_bytes > 0 AND phase = 'active'"),
    ),
    # Room on the page for the next version of a row: an update that moves no deadline stays on it.
    postgresql_with={"fillfactor": "80"},
)

counters = Table(
    "counters",
    metadata,
    _partition(),
    Column("scope", Name, primary_key=True),
    Column("used", BigInteger, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    _partition(),
    Column("command", LargeBinary, primary_key=True),
    Column("session_id", Name, nullable=False),
    Column("version", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("commands_by_expiry", "partition", "expires_at"),
)

policies = Table(
    "policies",
    metadata,
    _partition(),
    Column("name", Name, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("effective_from", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

bookmarks = Table(
    "bookmarks",
    metadata,
    _partition(),
    Column("name", Name, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Name, primary_key=True),
    Column("holder", Name, nullable=False),
    Column("until", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Name, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# -- what sweeps reported ---------------------------------------------------------------------

sweeps = Table(
    "sweeps",
    metadata,
    _partition(),
    # The start of the hour, by the clock of the sweeps.
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("batches", "due", "done", "held", "rearmed", "failed", "events")
    ),
)

# -- the vault --------------------------------------------------------------------------------

presence = Table(
    "presence",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("token", Name, primary_key=True),
    Column("joined_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("left_at", BigInteger),
    postgresql_with={"fillfactor": "80"},
)

invites = Table(
    "invites",
    metadata,
    _partition(),
    # A keyed hash: whoever reads the table cannot redeem what stands in it.
    Column("invite", LargeBinary, primary_key=True),
    Column("session_id", Name, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("invites_by_session", "partition", "session_id"),
)

subjects = Table(
    "subjects",
    metadata,
    _partition(),
    Column("lookup", LargeBinary, primary_key=True),
    Column("subject", Name, nullable=False),
    Index("subjects_by_id", "partition", "subject", unique=True),
)

subject_index = Table(
    "subject_index",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("token", Name, primary_key=True),
    Column("subject", Name, primary_key=True),
    Column("role", Name, nullable=False),
    # Whether this name leads to the token still; a later name of the same person replaces it.
    Column("current", SmallInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("subject_index_by_subject", "partition", "subject", "session_id"),
)

aliases = Table(
    "aliases",
    metadata,
    _partition(),
    Column("lookup", LargeBinary, primary_key=True),
    Column("session_id", Name, nullable=False),
    Index("aliases_by_session", "partition", "session_id"),
)

items = Table(
    "items",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("item_id", Name, primary_key=True),
    # Which chunk of an upload; 0 for what came whole.
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("scope", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("participants", Name, nullable=False),
    Column("media_type", Name),
    Column("count", Integer),
    Column("sealed", LargeBinary, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("upload_id", Name, primary_key=True),
    Column("kind", Name, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("participants", Name, nullable=False),
    Column("media_type", Name),
)

partials = Table(
    "partials",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("token", Name, primary_key=True),
    # Of the joint figures: whom any of what they were made of named.
    Column("contributors", Name, nullable=False, server_default=text("''")),
    Column("sealed", LargeBinary, nullable=False),
)

# -- requests of people, and holds ------------------------------------------------------------

requests = Table(
    "requests",
    metadata,
    _partition(),
    Column("request_id", Name, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("status", Name, nullable=False),
    Column("deadline_at", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("failures", SmallInteger, nullable=False),
    # Keyed hashes: of the caller's key, and of what it is about while it is open.
    Column("key", LargeBinary),
    Column("target", LargeBinary),
    # Of a request about a session; what names people is sealed.
    Column("session_id", Name),
    Column("sealed", LargeBinary),
    Column("state", LargeBinary, nullable=False),
    Index("requests_by_key", "partition", "key", unique=True),
    Index("requests_by_target", "partition", "target", unique=True),
    Index("requests_by_due", "partition", "due_at"),
    Index("requests_by_session", "partition", "session_id"),
)

subject_holds = Table(
    "subject_holds",
    metadata,
    _partition(),
    Column("hold", Name, primary_key=True),
    Column("subject", Name, nullable=False),
    Column("ground", Name, nullable=False),
    Column("since", BigInteger, nullable=False),
    # One that was released ended then: what it suspended is due from that instant.
    Column("until", BigInteger),
    Index("subject_holds_by_subject", "partition", "subject"),
)

# The holds of sessions that are not erased, as their events say: where they are looked up by id.
session_holds = Table(
    "session_holds",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("hold", Name, primary_key=True),
    Column("ground", Name, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger),
    Index("session_holds_by_id", "partition", "hold"),
)

# -- copies for people (GDPR Art. 15) ---------------------------------------------------------

access_requests = Table(
    "access_requests",
    metadata,
    _partition(),
    Column("request_id", Name, primary_key=True),
    Column("version", Integer, nullable=False),
    # Empty if nobody of that name is known, and once the copy is gone.
    Column("subject", Name, nullable=False),
    Column("verified_by", Name, nullable=False),
    Column("status", Name, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger),
    Column("erases_at", BigInteger),
    # When to look at it next; null: never again.
    Column("due_at", BigInteger),
    Column("sessions", Integer, nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("reason", Name),
    # The data key of the copy, under the request's own key in subject_keys.
    Column("wrapped", LargeBinary),
    Index("access_requests_by_due", "partition", "due_at"),
    Index("access_requests_by_subject", "partition", "subject"),
)

access_sessions = Table(
    "access_sessions",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("request_id", Name, primary_key=True),
    Index("access_sessions_by_request", "partition", "request_id"),
)

access_parts = Table(
    "access_parts",
    metadata,
    _partition(),
    Column("request_id", Name, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
)

# -- the keyring ------------------------------------------------------------------------------

subject_keys = Table(
    "subject_keys",
    metadata,
    _partition(),
    Column("subject", Name, primary_key=True),
    Column("kek", Name, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

data_keys = Table(
    "data_keys",
    metadata,
    _partition(),
    Column("session_id", Name, primary_key=True),
    Column("tier", Name, primary_key=True),
    Column("token", Name, primary_key=True),
    # Whose key wraps it; a person who changes names is several subjects behind one token.
    Column("subject", Name, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
)
