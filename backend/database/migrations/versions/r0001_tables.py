"""Jobs, their logs, leases, notes of automatic training, and connections."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    active = sa.text("state IN ('queued', 'fetching', 'training', 'evaluating', 'publishing', 'predicting')")
    op.create_table(
        "connections",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project"),
    )
    op.create_index("connections_by_age", "connections", ["updated"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("eta", sa.Double(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("process", sa.Text(), nullable=True),
        sa.Column("beat", sa.Double(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("jobs_by_age", "jobs", ["created", "id"], unique=False)
    op.create_index("jobs_by_project", "jobs", ["project", "created"], unique=False)
    op.create_index("jobs_by_state", "jobs", ["state", "created"], unique=False)
    op.create_index(
        "jobs_one_active", "jobs", ["kind", "project"], unique=True, sqlite_where=active, postgresql_where=active
    )
    op.create_table(
        "learned",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("annotations", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "task"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("requested", sa.Boolean(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("committed", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", "task"),
    )
    op.create_index(
        "leases_by_holder",
        "leases",
        ["holder", "project"],
        unique=False,
        sqlite_where=sa.text("holder != ''"),
        postgresql_where=sa.text("holder != ''"),
    )
    op.create_index(
        "leases_delivered",
        "leases",
        ["expires"],
        unique=False,
        sqlite_where=sa.text("requested IS 0"),
        postgresql_where=sa.text("requested IS false"),
    )
    op.create_index(
        "leases_due",
        "leases",
        ["project", "expires", "number", "requested"],
        unique=False,
        sqlite_where=sa.text("requested IS 1"),
        postgresql_where=sa.text("requested IS true"),
    )
    op.create_table(
        "log_lines",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("log_lines_by_job", "log_lines", ["job", "number"], unique=False)
    op.create_table(
        "notes",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project"),
    )
