"""Stands in for `python -m backend.entrypoints.prediction_job PROJECT JOB`.

The same, with a pipeline that needs no networks.
"""

import os
import sys

from backend.entrypoints.prediction_job import main
from backend.system.processes import PARENT, die_with_parent
from tests.backend.fakes import FakeModel

if __name__ == "__main__":
    die_with_parent(os.environ.get(PARENT))
    sys.exit(main(os.environ, *sys.argv[1:3], load=lambda device: FakeModel, import_seconds=5.0))
