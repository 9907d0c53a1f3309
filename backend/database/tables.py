"""The tables, the same for SQLite and PostgreSQL. A change here needs a revision in `migrations`."""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnClause,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
    literal_column,
    true,
)

REVISION = "0005"  # that these tables are of
VERSION_TABLE = "premask_version"  # Alembic's note of the revision
ACTIVE = ("queued", "fetching", "training", "evaluating", "publishing", "predicting")  # states of jobs

EMPTY: ColumnClause[str] = literal_column("''")  # as it stands in the conditions of indexes
METADATA = MetaData()


class Words(TypeDecorator[str]):
    """Any text: PostgreSQL takes no NUL, and neither engine half of a surrogate pair."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """The text as it can be stored."""
        return None if value is None else value.replace("\0", "\ufffd").encode(errors="replace").decode()


class Json(TypeDecorator[dict[str, Any]]):
    """A JSON object as text: figures may be NaN, which PostgreSQL's own JSON refuses."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Any) -> str:
        """The object as text."""
        return json.dumps(value or {})

    def process_result_value(self, value: str | None, dialect: Any) -> dict[str, Any]:
        """The object."""
        parsed: dict[str, Any] = json.loads(value or "{}")
        return parsed


def _text(name: str) -> "Column[str]":
    return Column(name, Words, nullable=False, default="")


JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Words, primary_key=True),
    Column("kind", Words, nullable=False),
    Column("project", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("started", Double),
    Column("progress", Double, nullable=False, default=0.0),
    Column("eta", Double),
    _text("message"),
    _text("reason"),
    Column("version", Words),
    Column("figures", Json, nullable=False, default=dict),
    Column("report", Json, nullable=False, default=dict),
    Column("metrics", Json, nullable=False, default=dict),
    Column("worker", Words),
    Column("process", Words),
    Column("beat", Double, nullable=False, default=0.0),
    Column("restarts", Integer, nullable=False, default=0),
)
_is_active = JOBS.c.state.in_([literal_column(f"'{state}'") for state in ACTIVE])
# A project has at most one job of a kind that waits or runs.
ONE_ACTIVE = Index(
    "jobs_one_active", JOBS.c.kind, JOBS.c.project, unique=True, sqlite_where=_is_active, postgresql_where=_is_active
)
Index("jobs_by_age", JOBS.c.created, JOBS.c.id)
Index("jobs_by_state", JOBS.c.state, JOBS.c.created)
Index("jobs_by_project", JOBS.c.project, JOBS.c.created)

LINES = Table(
    "log_lines",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job", Words, nullable=False),
    Column("line", Words, nullable=False),
    sqlite_autoincrement=True,
)
Index("log_lines_by_job", LINES.c.job, LINES.c.number)

# What a row means is told in `shares`.
SHARES = Table(
    "shares",
    METADATA,
    Column("job", Words, primary_key=True),
    Column("worker", Words, primary_key=True),
    Column("state", Words, nullable=False),
    Column("process", Words),
    Column("beat", Double, nullable=False, default=0.0),
    Column("ended", Double),
    Column("tally", Json, nullable=False, default=dict),
    Column("drawn", Integer, nullable=False, default=0),
    Column("pace", Double),
    _text("reason"),
)

# What a row means is told in `leases`.
LEASES = Table(
    "leases",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("task", Words, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("requested", Boolean, nullable=False),
    _text("holder"),
    Column("committed", Boolean, nullable=False, default=False),
    _text("version"),
    Column("expires", Double, nullable=False, default=0.0),
)
_requested, _delivered = LEASES.c.requested.is_(true()), LEASES.c.requested.is_(false())
_held = LEASES.c.holder != EMPTY
Index(
    "leases_due",
    LEASES.c.project,
    LEASES.c.expires,
    LEASES.c.number,
    LEASES.c.requested,
    sqlite_where=_requested,
    postgresql_where=_requested,
)
Index("leases_by_holder", LEASES.c.holder, LEASES.c.project, sqlite_where=_held, postgresql_where=_held)
Index("leases_delivered", LEASES.c.expires, sqlite_where=_delivered, postgresql_where=_delivered)

# How many tasks of a project are requested: too many are not counted for each chunk.
REQUESTED = Table(
    "requested",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("tasks", BigInteger, nullable=False),
)

# Projects whose annotations have changed, and when automatic training looks at them.
NOTES = Table(
    "notes",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("since", Double, nullable=False),
    Column("at", Double, nullable=False),
)

# The annotations that a project's last training learned from, by task.
LEARNED = Table(
    "learned",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("task", Words, primary_key=True),
    Column("annotations", Words, nullable=False),
    sqlite_with_rowid=False,
)

# Where a project's Label Studio is and the token that opens it, encrypted.
CONNECTIONS = Table(
    "connections",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("url", Words, nullable=False),
    Column("token", Words, nullable=False),
    Column("updated", Double, nullable=False),
)
Index("connections_by_age", CONNECTIONS.c.updated)

# What was published. The row of a removed version stays, so that its name never means other weights.
VERSIONS = Table(
    "versions",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("state", Words, nullable=False),  # candidate, served, retired or removed
    _text("place"),  # of its files in the store; empty once they are removed
    Column("files", Json, nullable=False, default=dict),  # name -> [SHA-256, bytes]
    Column("bytes", BigInteger, nullable=False, default=0),
    Column("published", Double, nullable=False),
    Column("parent", Words),
    _text("card"),
)
_is_served = VERSIONS.c.state == literal_column("'served'")
# At most one version of a project is served.
Index("versions_one_served", VERSIONS.c.project, unique=True, sqlite_where=_is_served, postgresql_where=_is_served)

# What rolling back returns to, highest position first; below the lowest is the starter.
SERVED_BEFORE = Table(
    "served_before",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("version", Words, nullable=False),
)

# The last number that a project's versions were given. Whoever changes them locks this row.
NUMBERS = Table(
    "version_numbers",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("last", Integer, nullable=False),
)

# The store that the versions' files are in: one row. It is bound once the store holds the same identity.
STORES = Table(
    "stores",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("identity", Words, nullable=False),
    Column("bound", Boolean, nullable=False),
)

# Machines that use this database, and what each wrote last into the store it sees.
MACHINES = Table(
    "machines",
    METADATA,
    Column("name", Words, primary_key=True),
    Column("nonce", Words, nullable=False),
    Column("seen", Double, nullable=False),
)
# Accepted tasks that are worth a second look; `fine` is the Unix time at which a lead found nothing wrong.
REVIEWS = Table(
    "reviews",
    METADATA,
    Column("project", Words, primary_key=True),
    Column("task", Words, primary_key=True),
    Column("annotations", Words, nullable=False),
    Column("image", Words, nullable=False),
    Column("label", Words, nullable=False),
    Column("kind", Words, nullable=False),
    Column("suspicion", Double, nullable=False),
    Column("sentence", Words, nullable=False),
    Column("version", Words, nullable=False),
    Column("learnt", Boolean, nullable=False),
    Column("fine", Double),
)
Index("reviews_by_suspicion", REVIEWS.c.project, REVIEWS.c.suspicion)
