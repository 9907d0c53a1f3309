"""Accepted tasks that are worth a second look."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table of the review queue."""
    op.create_table(
        "reviews",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("annotations", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("suspicion", sa.Double(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("learnt", sa.Boolean(), nullable=False),
        sa.Column("fine", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("project", "task"),
    )
    op.create_index("reviews_by_suspicion", "reviews", ["project", "suspicion"], unique=False)
