"""The cases of `premask bench`: a name and a function each. To add one, write a function and list it."""

from collections.abc import Callable

from backend.bench import leases, memory, networks, prefetch, runtime, serving, stages, workers
from backend.bench.measure import Case
from backend.bench.setting import Setting

CASES: dict[str, Callable[[Setting], Case]] = {
    "task": serving.task,
    "start": serving.start,
    "clicks": serving.clicks,
    "busy": serving.busy,
    "prefetch": prefetch.prefetch,
    "stages": stages.stages,
    "classes": stages.classes,
    "batch": networks.batch,
    "maps": networks.maps,
    "matting": networks.matting,
    "crops": networks.crops,
    "backbones": networks.backbones,
    "memory": memory.memory,
    "runtime": runtime.runtime,
    "overhead": runtime.overhead,
    "rle": networks.rle_codec,
    "leases": leases.chunks,
    "workers": workers.workers,
}
