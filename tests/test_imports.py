"""Who may import whom, and who reads the environment. The layers are contracts of import-linter in pyproject.toml."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINT = (Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache")

# Anything else is imported inside the function that needs it, so that the models load with these alone.
MODELS_IMPORT_FIRST = {"cv2", "numpy", "pydantic", "safetensors", "scipy", "timm", "torch", "torchvision", "models"}
# jobs/process.py hands it on; backend/__init__.py sets what torch reads there when it is loaded.
READ_THE_ENVIRONMENT = ("backend/cli/", "backend/entrypoints/", "backend/jobs/process.py", "backend/__init__.py")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def problems(file: str, source: str) -> Iterator[str]:
    """Breaks of the two rules that import-linter has no contract for, as `file:line: problem`."""
    tree = ast.parse(source, filename=file)
    deferred = {node for body in _deferred(tree) for statement in body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if file.startswith("models/") and node not in deferred:
            line = getattr(node, "lineno", 1)
            for library in _libraries(node) - MODELS_IMPORT_FIRST - sys.stdlib_module_names:
                yield f"{file}:{line}: models import {library} only inside the function that needs it"
    if not file.startswith(READ_THE_ENVIRONMENT):
        for line in _reads_environment(tree):
            yield f"{file}:{line}: the environment is not read here; take the value as an argument"


def _deferred(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """The statements that an import of the module does not run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.body
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield node.body


def _libraries(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").partition(".")[0]}
    return set()


def _reads_environment(tree: ast.Module) -> Iterator[int]:
    """Lines with os.environ or os.getenv, also where the module goes by another name."""
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules = {alias.asname or alias.name for alias in imported if alias.name == "os"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for alias in node.names if alias.name in ENVIRONMENT)
        elif isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT and ast.unparse(node.value) in modules:
            yield node.lineno


def test_every_import_points_down():
    lint = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout


def test_models_load_with_few_libraries_and_the_environment_is_read_at_the_edge():
    files = [path for folder in ("backend", "models") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = [one for path in files for one in problems(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))]
    assert not found, "\n".join(found)


PLANTED = {
    "backend/jobs/queue.py": "def f():\n    import backend.wiring\n",
    "backend/label_studio/client.py": "from backend.jobs.queue import JobQueue\n",
    "backend/versions/registry.py": "from ..web import bodies\n",
    "backend/sources/coco.py": "from models.pipeline import Pipeline\n",
    "backend/payments.py": "import json\n",
    "models/evaluation/clicks.py": "from models.training.losses import classifier_loss\n",
    "models/data/folder.py": "from models.pipeline import Pipeline\n",
    "models/refiner.py": "import flask\n",
    "models/trimap.py": "from backend.errors import BackendError\n",
}


def test_planted_imports_are_named(tmp_path):
    """One copy of the code with every offence: each is reported as its contract has it."""
    for folder in ("backend", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=lambda path, names: _no_code(Path(path), names))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, source in PLANTED.items():
        with (tmp_path / file).open("a") as code:
            code.write(f"\n{source}")
    lint = subprocess.run(LINT, cwd=tmp_path, capture_output=True, text=True)
    assert lint.returncode == 1
    assert "4 broken" in lint.stdout
    reported = set(re.findall(r"(\S+) -> (\S+)", lint.stdout))
    assert reported >= {
        ("backend.jobs.queue", "backend.wiring"),
        ("backend.label_studio.client", "backend.jobs.queue"),
        ("backend.versions.registry", "backend.web.bodies"),
        ("backend.sources.coco", "models.pipeline"),
        ("models.evaluation.clicks", "models.training.losses"),
        ("models.data.folder", "models.pipeline"),
        ("models.refiner", "flask"),
        ("models.trimap", "backend.errors"),
    }
    assert "payments" in lint.stdout  # a new module is given a layer on purpose


def _no_code(folder: Path, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".py") and not (folder / name).is_dir()}


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("models/losses.py", "from PIL import Image\n", "1: models import PIL only inside the function that needs it"),
        ("models/losses.py", "import os\n\nSEED = os.environ['SEED']\n", "3: the environment is not read here"),
        ("models/losses.py", "from os import getenv\n", "1: the environment is not read here"),
        ("backend/jobs/queue.py", "import os as system\n\nsystem.getenv('X')\n", "3: the environment is not read here"),
    ],
)
def test_an_offence_is_named_by_file_and_line(file, source, problem):
    (found,) = problems(file, source)
    assert found.startswith(f"{file}:{problem}")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/refiner.py", "import json\n\nimport torch.nn\n\nfrom models.trimap import SIZE\n"),
        ("models/refiner.py", "def f():\n    from PIL import Image\n"),
        ("models/refiner.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL.Image import Image\n"),
        ("backend/entrypoints/worker.py", "import os\n\nprint(os.environ)\n"),
    ],
)
def test_what_the_rules_allow_passes(file, source):
    assert list(problems(file, source)) == []
