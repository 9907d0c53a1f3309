"""Stands in for `python -m backend.entrypoints.prediction_job PROJECT JOB WORKER`.

The same, with a pipeline that needs no networks.
"""

import os
import sys

from backend.entrypoints.prediction_job import main
from backend.system.processes import PARENT, die_with_parent
from tests.backend.fakes import FakeModel

if __name__ == "__main__":
    die_with_parent(os.environ.get(PARENT))
    project, job, worker = sys.argv[1:]
    sys.exit(main(os.environ, project, job, worker, load=lambda device: FakeModel, import_seconds=5.0))
