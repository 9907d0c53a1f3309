"""Stands in for `python -m models.training SPEC.json`: python fake_training.py HOW SPEC.json."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from models.checkpoint import read_card


def say(**line):
    print(json.dumps(line), flush=True)


def main(how, spec):
    data = Path(spec["data"])
    if how == "timed":
        say(stage="classifier", done=1, total=2, left=90.0, spent=10.0)
        say(stage="refiner", done=1, total=2, left=30.0, spent=90.0)
    say(stage="classifier", done=1, total=2, message=f"{len(list((data / 'images').iterdir()))} images")
    for step in range(20 if how == "slow" else 0):
        time.sleep(0.1)
        say(stage="classifier", done=step, total=20, message="slowly", metrics={"step": step, "loss": 0.5})
    if how == "hang":
        subprocess.Popen(["sleep", "600"])  # a data loader, say
        time.sleep(600)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        raise MemoryError("no room left")
    if how == "refuse":
        say(stage="failed", reason="every mask is empty; draw some")
        sys.exit(1)
    say(stage="refiner", done=1, total=2, message="alpha")
    if how == "silent":
        sys.exit(0)
    card = {
        "name": spec["name"],
        "classes": (data / "classes.txt").read_text().split("\n")[:-1],
        "backbone": "tf_efficientnet_lite0",
        "created": "2026-01-01T00:00:00+00:00",
        "parent": read_card(Path(spec["parent"])).name if spec["parent"] else None,
    }
    Path(spec["out"]).mkdir()
    (Path(spec["out"]) / "card.json").write_text(json.dumps(card))
    say(stage="evaluating", done=2, total=2, message="held-out tasks", nice=os.nice(0))
    print("a line that is no JSON", flush=True)
    new = {"mean_iou": 0.8, "nice": os.nice(0), "as_drawn": spec["as_drawn"]}
    if how == "weak":
        classes = {"Lumen": {"state": "weak", "iou": 0.24}, "Fibrous cap": {"state": "not measured", "iou": None}}
        missing = "about 20 more corrected tasks would tell"
        evidence = {"missing": missing, "classes": classes, "needed": 4}
        say(stage="done", metrics=new, parent_metrics=None, promote=False, reason="0.24", evidence=evidence)
        return
    worse = how == "worse"
    say(stage="done", metrics=new, parent_metrics={"mean_iou": 0.9}, promote=not worse, reason="0.80 against 0.90")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
