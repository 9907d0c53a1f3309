"""Run by Alembic: applies the revisions inside the transaction that is handed in."""

from alembic import context

from backend.database.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
