"""`python -m models.training SPEC.json`: one training run in a process of its own, telling its progress as JSON lines.

Every line of standard output is an object with `stage`; the last one's stage is "done" or "failed".
"""

import json
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.training.schedule import Progress
from models.training.spec import TrainingSpec
from models.training.train import train

EVERY = 0.5  # seconds between two lines of the same stage


def main(path: Path) -> int:
    """Train as the JSON file says; return the exit code."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(TrainingSpec)}
        if unknown := set(values) - known:
            raise ValueError(f"{path} has unknown keys {sorted(unknown)}; there are {sorted(known)}")
        for key in ("data", "out", "parent", "weights"):
            if values.get(key):
                values[key] = Path(values[key])
        values["as_drawn"] = tuple(values.get("as_drawn") or ())
        spec = TrainingSpec(**values)
        result = train(spec, _Printer())
    except (ModelError, ValueError, TypeError, OSError) as error:
        _print({"stage": "failed", "reason": str(error)})
        return 1
    _print(
        {
            "stage": "done",
            "metrics": result.metrics,
            "parent_metrics": result.parent_metrics,
            "promote": result.verdict.promote,
            "reason": result.verdict.reason,
            "evidence": result.verdict.report(),
        }
    )
    return 0


class _Printer:
    """Prints progress, at most every half second within a stage: steps can be faster than any reader."""

    def __init__(self) -> None:
        self.stage, self.time = "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self.stage and now - self.time < EVERY and progress.done < progress.total:
            return
        self.stage, self.time = progress.stage, now
        _print({key: value for key, value in asdict(progress).items() if value is not None})


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m models.training SPEC.json")
    sys.exit(main(Path(sys.argv[1])))
