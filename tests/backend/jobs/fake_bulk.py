"""Stands in for `python -m backend.entrypoints.prediction_job PROJECT JOB`.

The same, with a pipeline that needs no networks.
"""

import os
import sys

from backend.entrypoints.prediction_job import main
from backend.system.processes import PARENT, die_with_parent
from tests.backend.fakes import FakePipeline

if __name__ == "__main__":
    die_with_parent(os.environ.get(PARENT))
    sys.exit(main(os.environ, sys.argv[1], sys.argv[2], load=lambda device: FakePipeline, import_seconds=5.0))
