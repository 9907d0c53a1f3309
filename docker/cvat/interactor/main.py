"""The interactor as Nuclio starts it: `init_context` is looked for in the file that defines `handler`."""

from pathlib import Path
from typing import Any

from backend.cvat.nuclio import answer, interactor


def init_context(context: Any) -> None:
    """Load the checkpoint in `model/` beside this file, the starter weights if there is none."""
    context.user_data.function = interactor(Path(__file__).with_name("model"))


def handler(context: Any, event: Any) -> Any:
    """Answer one call of CVAT."""
    return answer(context, event)
