"""`python -m models.prepare FOLDER RUNTIME [THREADS]`: have a checkpoint's networks converted for this machine.

Done when a version is published, so that no request waits for it; see `models.runtime`. The last line of standard
output is an object with `stage`: "done", with what computes the networks, or "failed".
"""

import json
import sys
from pathlib import Path

import torch

from models.errors import ModelError
from models.families import Runtime, load_model
from models.pipeline import Pipeline

RUNTIMES: dict[str, Runtime] = {"auto": "auto", "openvino": "openvino", "pytorch": "pytorch"}


def main(folder: Path, runtime: Runtime, threads: int | None = None) -> int:
    """Convert what is not converted yet; return the exit code.

    Args:
        folder: the checkpoint.
        runtime: that the server is told to use.
        threads: cores that its forward passes may use; None leaves the choice to torch.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        model = load_model(folder, runtime=runtime)
    except ModelError as error:
        print(json.dumps({"stage": "failed", "reason": str(error)}), flush=True)
        return 1
    name = model.networks.name if isinstance(model, Pipeline) else "PyTorch"
    print(json.dumps({"stage": "done", "message": f"computed by {name}"}), flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in RUNTIMES:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), RUNTIMES[sys.argv[2]], int(sys.argv[3]) if len(sys.argv) == 4 else None))
