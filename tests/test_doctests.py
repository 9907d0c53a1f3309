"""Examples in docstrings say what their functions return."""

import doctest
import importlib

import numpy as np
import pytest

# Modules whose docstrings hold examples; `np` is NumPy in each of them.
MODULES = (
    "backend.bench.measure",
    "backend.system.logs",
    "backend.system.processes",
    "models.data.groups",
    "models.data.splitter",
    "models.evaluation.intervals",
    "models.masks.components",
    "models.masks.metrics",
    "models.masks.morphology",
    "models.masks.rasterising",
    "models.refiner",
    "models.stages",
    "models.trimap",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={"np": np})
    assert found.attempted > 0
    assert found.failed == 0
