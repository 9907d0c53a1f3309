"""Job records as a test needs them."""

import time
from typing import Any

from backend.database.jobs import TABLE, JobStore


def edit_job(store: JobStore, job_id: str, **fields: Any) -> None:
    """Set fields of a job's record, also those that only its worker may change."""
    store._records.change(TABLE, lambda rows: rows[job_id].update(fields, updated=time.time()), [job_id])
