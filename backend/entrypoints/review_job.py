"""`python -m backend.entrypoints.review_job SPECIFICATION`: a review job's process, which loads the models that judge.

It tells its progress as JSON lines with `stage`: "reviewing" with `done` and `total`; the last one's is "done" with
`findings`, or "failed" with a `reason`.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.system.processes import PARENT, die_with_parent, leave
from models.data.reader import open_data_folder
from models.errors import ModelError
from models.evaluation.review import Opinion, findings, opinions
from models.families import load_model

MAX_FINDINGS = 1000


def main(specification: Path) -> int:
    """Judge accepted images as a specification says (see `backend.jobs.review`); returns the exit code."""
    asked = json.loads(specification.read_text(encoding="utf-8"))
    parts = asked["parts"]
    total = sum(len(part["images"]) for part in parts)
    try:
        samples = open_data_folder(Path(asked["data"]), skip_bad=True).samples
        found: list[dict[str, Any]] = []
        begun = 0
        for part in parts:
            model = load_model(Path(part["directory"]), asked["device"])

            def tell(done: int, _: int, begun: int = begun) -> None:
                _print({"stage": "reviewing", "done": begun + done, "total": total, "message": ""})

            given: list[Opinion] = opinions(model, [samples[name] for name in part["images"]], progress=tell)
            begun += len(part["images"])
            told = {"version": part["version"], "learnt": part["learnt"]}
            found += [asdict(finding) | told for finding in findings(given)]
    except ModelError as error:
        _print({"stage": "failed", "reason": str(error)})
        return 1
    found.sort(key=lambda one: -one["suspicion"])
    _print({"stage": "done", "findings": found[:MAX_FINDINGS]})
    return 0


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    # Two processes must not do one job: this one ends with its worker.
    die_with_parent(os.environ.get(PARENT))
    leave(main(Path(sys.argv[1])))
