"""Who may import whom, and who may read the environment.

The table below is the architecture: a module obeys the row with the longest name that it begins with, and may always
import from that row's own name. Every module that imports needs a row, so that a new one is
placed on purpose.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What models hands to others: dataclasses, errors and arrays from files, no networks.
VALUES = ("models.data.bounded", "models.data.decoding", "models.errors", "models.prompt", "models.segment")
BACKEND = ("backend", "models")

MAY_IMPORT = {
    "models": (),
    # Leaves: nothing of ours.
    "backend.prediction.cache": ("backend.system.metrics",),
    "backend.web.bodies": ("backend.errors",),
    "backend.web.csrf": (),
    "models.data.writer": (),
    "backend.errors": (),
    "backend.system.files": (),
    "backend.system.logs": (),
    "backend.system.metrics": (),
    "backend.web.openapi": (),
    "backend.system.processes": (),
    "backend.prediction.streaming": (),
    # Label Studio's formats and API, without networks, registry or jobs.
    "backend.label_studio": (
        *VALUES,
        "models.masks.outlines",
        "models.data.writer",
        "backend.errors",
        "backend.system.metrics",
    ),
    # Other tools' exports as data folders.
    "backend.sources": (*VALUES, "models.data.files", "models.data.writer", "backend.errors", "backend.label_studio"),
    "backend.database.credentials": ("backend.errors", "backend.system.files"),
    "backend.label_studio.connections": ("backend.database.credentials", "backend.errors", "backend.label_studio"),
    # Versions, and the models that serve them, without Label Studio.
    "backend.versions.registry": ("models", "backend.errors", "backend.system.files"),
    "backend.versions.serving": (
        "models",
        "backend.errors",
        "backend.system.files",
        "backend.system.metrics",
        "backend.versions.registry",
    ),
    # The same pipeline for CVAT, without registry or jobs.
    "backend.cvat": ("models", "backend.versions.serving"),
    "backend.label_studio.naming": ("backend.errors", "backend.label_studio", "backend.versions.registry"),
    "backend.prediction.prompts": (
        "models.interactive",
        "models.pipeline",
        "models.segment",
        "backend.errors",
        "backend.label_studio",
        "backend.versions.serving",
    ),
    "backend.prediction.predictor": (
        "models.segment",
        "backend.prediction.cache",
        "backend.errors",
        "backend.prediction.prompts",
        "backend.label_studio",
        "backend.versions.serving",
    ),
    "backend.prediction.responder": (
        "backend.errors",
        "backend.jobs",
        "backend.label_studio",
        "backend.prediction.predictor",
        "backend.prediction.streaming",
    ),
    # Jobs work in processes of their own, so they read cards here and import no network.
    "backend.jobs": (
        "models.checkpoint",
        "models.errors",
        "backend.errors",
        "backend.system.files",
        "backend.label_studio",
        "backend.system.processes",
        "backend.versions.registry",
    ),
    "backend.diagnosis.checks": (
        "models.checkpoint",
        "models.errors",
        "backend.errors",
        "backend.jobs",
        "backend.versions.serving",
    ),
    "backend.web.operations": (
        "backend.diagnosis.checks",
        "backend.errors",
        "backend.jobs",
        "backend.system.logs",
        "backend.system.metrics",
        "backend.versions.serving",
    ),
    "backend.web.reports": ("models.errors", "backend.jobs", "backend.versions.registry", "backend.versions.serving"),
    "backend.web.security": ("backend.web.csrf",),
    # The dashboard's pages: what jobs, versions and reports say, and the buttons that change it.
    "backend.web.dashboard": (
        "backend.database.credentials",
        "backend.web.csrf",
        "backend.errors",
        "backend.jobs",
        "backend.system.logs",
        "backend.versions.registry",
        "backend.web.reports",
        "backend.versions.serving",
    ),
    "backend.settings": ("models.starter", "backend.errors"),
    "backend.entrypoints.supervisor": ("backend.errors", "backend.system.processes", "backend.settings"),
    # The demo does what a user does, over HTTP.
    "backend.demo": (
        "models.masks.metrics",
        "models.phantom",
        "backend.errors",
        "backend.database.jobs",
        "backend.label_studio",
        "backend.system.processes",
    ),
    # Where the parts are put together: all of it.
    "backend.app": BACKEND,
    "backend.wiring": BACKEND,
    "backend.bench": BACKEND,
    "backend.cli": BACKEND,
    "backend.diagnosis.doctor": BACKEND,
    "backend.gunicorn.conf": BACKEND,
    "backend.web.job_routes": BACKEND,
    "backend.entrypoints.prediction_job": BACKEND,
    "backend.entrypoints.worker": BACKEND,
    "backend.entrypoints.label_studio_ml": BACKEND,
    "backend.web.project_routes": BACKEND,
    "backend.entrypoints.wsgi": BACKEND,
}

# models stays usable without the backend's libraries, and importable with these alone.
FOREIGN_TO_MODELS = {"click", "flask", "huey", "label_studio_sdk", "pydantic_settings", "requests", "rich"}
MODELS_IMPORT_FIRST = {"cv2", "numpy", "safetensors", "timm", "torch"}

# Everything else gets its settings as arguments.
READ_THE_ENVIRONMENT = (
    "backend.cli",
    "backend.gunicorn.conf",
    "backend.entrypoints.prediction_job",
    "backend.jobs.process",  # hands it on to the job's process
    "backend.entrypoints.worker",
    "backend.entrypoints.label_studio_ml",
    "backend.entrypoints.wsgi",
)
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def offences(root: Path) -> list[str]:
    """Every break of the rules in root/backend and root/models, as `file:line: what is wrong`."""
    files = sorted(path for folder in ("backend", "models") for path in (root / folder).rglob("*.py"))
    modules = {_module(path.relative_to(root)): path for path in files}
    return [
        f"{path.relative_to(root).as_posix()}:{line}: {problem}"
        for module, path in modules.items()
        for line, problem in sorted(set(_problems(module, path, modules.keys())))
    ]


def _problems(module: str, path: Path, modules: Set[str]) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    row = max((row for row in MAY_IMPORT if _within(module, row)), key=len, default=None)
    imports = [(node, target) for node in ast.walk(tree) for target in _targets(node, package, modules)]
    if row is None:
        if imports:
            yield 1, f"{module} has no row in MAY_IMPORT"
        return
    deferred = _deferred(tree)
    for node, target in imports:
        library = target.partition(".")[0]
        if library in ("backend", "models"):
            if not any(_within(target, name) for name in (row, *MAY_IMPORT[row])):
                yield node.lineno, f"{row} does not import {target}"
        elif row == "models":
            if library in FOREIGN_TO_MODELS:
                yield node.lineno, f"models does not import {library}"
            elif library not in MODELS_IMPORT_FIRST | sys.stdlib_module_names and node not in deferred:
                yield node.lineno, f"models imports {library} only inside the function that needs it"
    if not any(_within(module, name) for name in READ_THE_ENVIRONMENT):
        for line in _environment_reads(tree):
            yield line, f"{module} does not read the environment; take the value as an argument"


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _within(module: str, name: str) -> bool:
    return f"{module}.".startswith(f"{name}.")


def _targets(node: ast.AST, package: str, modules: Set[str]) -> Iterator[str]:
    """The modules that a statement imports: `from backend import files` imports backend.system.files."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules else source


def _deferred(tree: ast.Module) -> set[ast.AST]:
    """What an import of the module does not run: bodies of functions, and `if TYPE_CHECKING:`."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    bodies += [
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    ]
    return {inner for body in bodies for statement in body for inner in ast.walk(statement)}


def _environment_reads(tree: ast.Module) -> Iterator[int]:
    """Lines with os.environ or os.getenv, under whatever name."""
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names = {"os", *(alias.asname for alias in imported if alias.name == "os")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in names and node.attr in ENVIRONMENT:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for alias in node.names if alias.name in ENVIRONMENT)


def test_every_module_keeps_to_its_imports_and_leaves_the_environment_alone():
    found = offences(ROOT)
    assert not found, "\n".join(found)


def test_the_table_names_modules_that_exist():
    for name in (*MAY_IMPORT, *READ_THE_ENVIRONMENT, *(name for row in MAY_IMPORT.values() for name in row)):
        path = ROOT / name.replace(".", "/").replace("gunicorn/conf", "gunicorn.conf")
        assert path.is_dir() or path.with_name(f"{path.name}.py").is_file(), name


@pytest.mark.parametrize(
    ("file", "source", "offence"),
    [
        (
            "models/refiner.py",
            "import numpy\n\nfrom backend.errors import BackendError\n",
            "3: models does not import backend.errors",
        ),
        ("models/refiner.py", "def f():\n    import requests\n", "2: models does not import requests"),
        (
            "models/training/losses.py",
            "from PIL import Image\n",
            "1: models imports PIL only inside the function that needs it",
        ),
        (
            "models/training/losses.py",
            "import os\n\nSEED = os.environ['SEED']\n",
            "3: models.training.losses does not read the environment; take the value as an argument",
        ),
        (
            "models/training/losses.py",
            "from os import getenv\n",
            "1: models.training.losses does not read the environment; take the value as an argument",
        ),
        (
            "backend/versions/registry.py",
            "import os as system\n\nsystem.getenv('X')\n",
            "3: backend.versions.registry does not read the environment; take the value as an argument",
        ),
        (
            "backend/versions/registry.py",
            "from backend import errors, predictor\n",
            "1: backend.versions.registry does not import backend.prediction.predictor",
        ),
        (
            "backend/versions/registry.py",
            "from . import predictor\n",
            "1: backend.versions.registry does not import backend.prediction.predictor",
        ),
        (
            "backend/label_studio/client.py",
            "from models.pipeline import Pipeline, describe\n",
            "1: backend.label_studio does not import models.pipeline",
        ),
        (
            "backend/label_studio/client.py",
            "from ..registry import Registry\n",
            "1: backend.label_studio does not import backend.versions.registry",
        ),
        (
            "backend/jobs/training.py",
            "def f():\n    import backend.app\n",
            "2: backend.jobs does not import backend.app",
        ),
        ("backend/payments.py", "import json\n", "1: backend.payments has no row in MAY_IMPORT"),
    ],
)
def test_an_offence_is_named_by_file_and_line(tmp_path, file, source, offence):
    write(tmp_path, "backend/errors.py", "import json\n")
    write(tmp_path, "backend/prediction/predictor.py", "from backend.errors import BackendError\n")
    write(tmp_path, file, source)
    assert offences(tmp_path) == [f"{file}:{offence}"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/refiner.py", "import json\n\nimport torch.nn\n\nfrom models.trimap import SIZE\n"),
        ("models/refiner.py", "def f():\n    from PIL import Image\n"),
        ("models/refiner.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL.Image import Image\n"),
        ("backend/label_studio/client.py", "import requests\n\nfrom .transport import Transport\n"),
        ("backend/entrypoints/worker.py", "import os\n\nfrom backend.settings import Settings\n\nprint(os.environ)\n"),
        ("backend/__init__.py", ""),
    ],
)
def test_what_the_table_allows_passes(tmp_path, file, source):
    write(tmp_path, file, source)
    assert offences(tmp_path) == []


def write(root: Path, file: str, source: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(source, encoding="utf-8")
