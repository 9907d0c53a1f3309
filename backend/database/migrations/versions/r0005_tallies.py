"""The number of a project's requested tasks, and one tally a share."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table of numbers and count; a share's tally takes up that of its worker's earlier processes."""
    op.create_table(
        "requested",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project"),
    )
    op.execute("insert into requested select project, count(*) from leases where requested group by project")
    connection = op.get_bind()
    change = sa.text("update shares set tally = :tally where job = :job and worker = :worker")
    for job, worker, earlier, tally in connection.execute(sa.text("select job, worker, earlier, tally from shares")):
        both = json.dumps(_sum(json.loads(earlier), json.loads(tally)))
        connection.execute(change, {"job": job, "worker": worker, "tally": both})
    op.drop_column("shares", "earlier")


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    numbers = {what: one.get(what, 0) + other.get(what, 0) for what in {**one, **other} if what != "problems"}
    return {**numbers, "problems": [*one.get("problems", []), *other.get("problems", [])]}
