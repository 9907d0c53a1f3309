"""Job records as a test needs them."""

import time
from typing import Any

from sqlalchemy import update

from backend.database.jobs import JobStore
from backend.database.tables import JOBS


def edit_job(store: JobStore, job_id: str, **fields: Any) -> None:
    """Set fields of a job's record, also those that only its worker may change."""
    edited = update(JOBS).where(JOBS.c.id == job_id).values(**{"updated": time.time()} | fields)
    store._database.change(lambda connection: connection.execute(edited))
