"""Timing side by side: A B A B, so that other work on the machine slows both down alike."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

UNITS = {"ms": 1e3, "MB": 1e-6}  # of what is measured in seconds or in bytes
LIBRARIES = ("torch", "openvino", "timm", "numpy", "cv2")


@dataclass
class Times:
    """How long one side took, round by round.

    Attributes:
        wall: seconds that passed.
        cpu: seconds that this process's threads computed; what other programs do hardly changes them. Empty where the
            work is done in another process.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """Result of one comparison.

    Attributes:
        about: the question that it answers.
        sides: times by side.
        targets: seconds that a side should stay under.
        against: the side that a side is compared with; the first where not named.
        unit: "ms" where sides are times in seconds, "MB" where they are bytes.
    """

    about: str
    sides: dict[str, Times]
    targets: Mapping[str, float] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    unit: str = "ms"


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int, tick: Callable[[], None], *, cpu: bool = True
) -> dict[str, Times]:
    """Run every side in turn, `rounds` times, after one run of each that does not count.

    Args:
        sides: what to time, by name.
        rounds: how often, at least 1.
        tick: called after each run.
        cpu: count this process's computing time, too.
    """
    times = {name: Times() for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            wall, computed = time.perf_counter(), time.process_time()
            work()
            if number:
                times[name].wall.append(time.perf_counter() - wall)
                if cpu:
                    times[name].cpu.append(time.process_time() - computed)
            tick()
    return times


def divided(times: Times, by: int) -> Times:
    """The same times per item of a batch."""
    return Times([one / by for one in times.wall], [one / by for one in times.cpu])


def figures(case: Case) -> dict[str, Any]:
    """A case as figures for JSON, in its unit, which the names end with; ratios with another side, round by round."""
    unit, factor = case.unit, UNITS[case.unit]
    first = next(iter(case.sides))
    sides = {}
    for name, times in case.sides.items():
        low, median, high = quartiles(times.wall)
        against = case.against.get(name, first)
        base = case.sides[against]
        ratios = [this / other for this, other in zip(times.wall, base.wall, strict=True)]
        computed = [this / other for this, other in zip(times.cpu, base.cpu, strict=True) if other > 0]
        target = case.targets.get(name)
        sides[name] = {
            "rounds": len(times.wall),
            f"median_{unit}": factor * median,
            f"quartiles_{unit}": [factor * low, factor * high],
            f"p95_{unit}": factor * percentile(times.wall, 95),
            "cpu_ms": 1000 * statistics.median(times.cpu) if times.cpu else None,
            "against": against,
            "ratio": statistics.median(ratios),
            "ratio_quartiles": list(quartiles(ratios)[::2]),
            "cpu_ratio": statistics.median(computed) if computed else None,
            f"target_{unit}": None if target is None else factor * target,
            "met": None if target is None else percentile(times.wall, 95) < target,
        }
    return {"about": case.about, "unit": unit, "sides": sides}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    return percentile(values, 25), percentile(values, 50), percentile(values, 75)


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile, linear between the two nearest values, as numpy does it.

    >>> percentile([4.0, 1.0, 2.0, 3.0], 50)
    2.5
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def machine() -> dict[str, Any]:
    """The machine of the measurement, and its load at the start."""
    import torch

    # OpenVINO has no wheels for some machines.
    versions = {name: str(__import__(name).__version__) if find_spec(name) else "none" for name in LIBRARIES}
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
