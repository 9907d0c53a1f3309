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
VALUES = ("models.decoding", "models.errors", "models.prompt", "models.segment")
BACKEND = ("backend", "models")

MAY_IMPORT = {
    "models": (),
    # Leaves: nothing of ours.
    "backend.answers": ("backend.metrics",),
    "backend.bodies": ("backend.errors",),
    "backend.csrf": (),
    "backend.data_folder": (),
    "backend.errors": (),
    "backend.files": (),
    "backend.logs": (),
    "backend.metrics": (),
    "backend.openapi": (),
    "backend.processes": (),
    "backend.streaming": (),
    # Label Studio's formats and API, without networks, registry or jobs.
    "backend.label_studio": (*VALUES, "models.outlines", "backend.data_folder", "backend.errors", "backend.metrics"),
    # Other tools' exports as data folders.
    "backend.sources": (*VALUES, "models.files", "backend.data_folder", "backend.errors", "backend.label_studio"),
    "backend.credentials": ("backend.errors", "backend.files"),
    "backend.connections": ("backend.credentials", "backend.errors", "backend.label_studio"),
    # Versions, and the models that serve them, without Label Studio.
    "backend.registry": ("models", "backend.errors", "backend.files"),
    "backend.serving": ("models", "backend.errors", "backend.files", "backend.metrics", "backend.registry"),
    # The same pipeline for CVAT, without registry or jobs.
    "backend.cvat": ("models", "backend.serving"),
    "backend.naming": ("backend.errors", "backend.label_studio", "backend.registry"),
    "backend.interactive": (
        "models.interactive",
        "models.pipeline",
        "models.segment",
        "backend.errors",
        "backend.label_studio",
        "backend.serving",
    ),
    "backend.predictor": (
        "models.segment",
        "backend.answers",
        "backend.errors",
        "backend.interactive",
        "backend.label_studio",
        "backend.serving",
    ),
    "backend.delivery": (
        "backend.errors",
        "backend.jobs",
        "backend.label_studio",
        "backend.predictor",
        "backend.streaming",
    ),
    # Jobs work in processes of their own, so they read cards here and import no network.
    "backend.jobs": (
        "models.checkpoint",
        "models.errors",
        "backend.errors",
        "backend.files",
        "backend.label_studio",
        "backend.processes",
        "backend.registry",
    ),
    "backend.checks": (
        "models.checkpoint",
        "models.errors",
        "backend.errors",
        "backend.jobs",
        "backend.serving",
    ),
    "backend.monitoring": (
        "backend.checks",
        "backend.errors",
        "backend.jobs",
        "backend.logs",
        "backend.metrics",
        "backend.serving",
    ),
    "backend.reports": ("models.errors", "backend.jobs", "backend.registry", "backend.serving"),
    "backend.security": ("backend.csrf",),
    # The dashboard's pages: what jobs, versions and reports say, and the buttons that change it.
    "backend.dashboard": (
        "backend.credentials",
        "backend.csrf",
        "backend.errors",
        "backend.jobs",
        "backend.logs",
        "backend.registry",
        "backend.reports",
        "backend.serving",
    ),
    "backend.settings": ("models.starter", "backend.errors"),
    "backend.supervisor": ("backend.errors", "backend.processes", "backend.settings"),
    # The demo does what a user does, over HTTP.
    "backend.demo": (
        "models.evaluation.metrics",
        "models.phantom",
        "backend.errors",
        "backend.jobs.store",
        "backend.label_studio",
        "backend.processes",
    ),
    # Where the parts are put together: all of it.
    "backend.app": BACKEND,
    "backend.assembly": BACKEND,
    "backend.bench": BACKEND,
    "backend.cli": BACKEND,
    "backend.doctor": BACKEND,
    "backend.gunicorn.conf": BACKEND,
    "backend.job_routes": BACKEND,
    "backend.jobs.bulk_process": BACKEND,
    "backend.jobs.worker": BACKEND,
    "backend.label_studio.sdk_adapter": BACKEND,
    "backend.project_routes": BACKEND,
    "backend.wsgi": BACKEND,
}

# models stays usable without the backend's libraries, and importable with these alone.
FOREIGN_TO_MODELS = {"click", "flask", "huey", "label_studio_sdk", "pydantic_settings", "requests", "rich"}
MODELS_IMPORT_FIRST = {"cv2", "numpy", "safetensors", "timm", "torch"}

# Everything else gets its settings as arguments.
READ_THE_ENVIRONMENT = (
    "backend.cli",
    "backend.gunicorn.conf",
    "backend.jobs.bulk_process",
    "backend.jobs.process",  # hands it on to the job's process
    "backend.jobs.worker",
    "backend.label_studio.sdk_adapter",
    "backend.wsgi",
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
    """The modules that a statement imports: `from backend import files` imports backend.files."""
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
            "backend/registry.py",
            "import os as system\n\nsystem.getenv('X')\n",
            "3: backend.registry does not read the environment; take the value as an argument",
        ),
        (
            "backend/registry.py",
            "from backend import errors, predictor\n",
            "1: backend.registry does not import backend.predictor",
        ),
        ("backend/registry.py", "from . import predictor\n", "1: backend.registry does not import backend.predictor"),
        (
            "backend/label_studio/client.py",
            "from models.pipeline import Pipeline, describe\n",
            "1: backend.label_studio does not import models.pipeline",
        ),
        (
            "backend/label_studio/client.py",
            "from ..registry import Registry\n",
            "1: backend.label_studio does not import backend.registry",
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
    write(tmp_path, "backend/predictor.py", "from backend.errors import BackendError\n")
    write(tmp_path, file, source)
    assert offences(tmp_path) == [f"{file}:{offence}"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/refiner.py", "import json\n\nimport torch.nn\n\nfrom models.trimap import SIZE\n"),
        ("models/refiner.py", "def f():\n    from PIL import Image\n"),
        ("models/refiner.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL.Image import Image\n"),
        ("backend/label_studio/client.py", "import requests\n\nfrom .transport import Transport\n"),
        ("backend/jobs/worker.py", "import os\n\nfrom backend.settings import Settings\n\nprint(os.environ)\n"),
        ("backend/__init__.py", ""),
    ],
)
def test_what_the_table_allows_passes(tmp_path, file, source):
    write(tmp_path, file, source)
    assert offences(tmp_path) == []


def write(root: Path, file: str, source: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(source, encoding="utf-8")
