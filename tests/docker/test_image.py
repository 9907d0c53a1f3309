"""The image as it is built: what is in it, what is not, and that it predicts as the user it runs as."""

import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from PIL import Image as Picture

from backend.demo.predictions import iou, masks
from backend.demo.sample_project import CONFIG
from models.phantom import render_phantom
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import eventually, predict_body, setup_body
from tests.docker.conftest import OWNER
from tests.docker.image import Image, built, stop
from tests.end_to_end.stack import free_port

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

BUILD_TOOLS = {"as", "c++", "cc", "cmake", "g++", "gcc", "git", "ld", "make", "pip", "pip3", "uv"}
DEVELOPERS_TOOLS = {"cvat_sdk", "hypothesis", "mypy", "pip", "playwright", "pytest", "ruff", "uv"}


@contextmanager
def serving(image: Image, data: Path, **environ: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The image's own command; gives its address and its variables once it answers."""
    port, log = free_port(9700), data.parent / "server.log"
    variables = {"PREMASK_PORT": str(port), **environ}
    with log.open("w") as output:
        server = subprocess.Popen(image.command(data, variables, image.config["Cmd"]), stdout=output)
    try:
        eventually(lambda: server.poll() is not None or log.read_text(), 300)
        url = f"http://127.0.0.1:{port}"
        assert log.read_text().startswith(f"premask serves at {url} and keeps its data in /data")
        yield url, variables
    finally:
        code = stop(server)
    assert code == 0, "SIGTERM, as `docker stop` sends it, must end it in order"


def test_it_runs_as_a_user_whose_number_is_fixed(image: Image, data: Path) -> None:
    """A number, because Kubernetes' runAsNonRoot cannot look up names."""
    assert image.user == str(OWNER)
    assert image.run(data, ["id", "-u"]) == (0, f"{OWNER}\n")


def test_no_build_tools_and_no_caches_are_left(image: Image) -> None:
    folders = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "opt/premask/bin")
    programs = {entry.name for folder in folders for entry in (image.root / folder).iterdir()}
    assert {"python3", "premask", "gunicorn"} <= programs
    assert programs & BUILD_TOOLS == set()
    (packages,) = image.root.glob("opt/premask/lib/python3*/site-packages")
    assert {path.name for path in packages.iterdir()} & DEVELOPERS_TOOLS == set()
    for left in ("root/.cache", "opt/uv", "requirements", "wheel", "premask", "tmp", "var/lib/apt/lists"):
        folder = image.root / left
        assert not folder.exists() or [path.name for path in folder.iterdir() if path.name != "partial"] == [], left


def test_its_user_can_write_to_its_data_and_to_no_code(image: Image) -> None:
    """By the permissions alone, so that it holds as well where the root is not mounted read-only."""
    his = ("-perm", "-o=w", "-o", "-user", image.user, "-o", "-group", image.user)
    command = ["find", str(image.root), "-xdev", "!", "-type", "l", "!", "-path", f"{image.root}/dev*"]
    command += ["(", *his, ")", "-printf", "%P\\n"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "data" in found
    assert set(found) <= {"data", "tmp", "var/tmp", "run/lock"}


def test_the_cpu_image_starts_torch_without_what_a_gpu_needs(image: Image, data: Path) -> None:
    code, found = image.run(
        data, ["python", "-c", "import torch; print(torch.cuda.is_available(), torch.ones(2).sum())"]
    )
    assert (code, found) == (0, "False tensor(2.)\n")
    (packages,) = image.root.glob("opt/premask/lib/python3*/site-packages")
    assert not (packages / "triton").exists()
    sizes = {name: _megabytes(packages / name) for name in ("torch", "nvidia")}
    print(f"image: {_megabytes(image.root)} MB, of which {sizes}")


def test_the_cuda_image_has_what_a_gpu_needs_and_serves_without_one(data: Path) -> None:
    """No GPU is here: that torch was built for one, and that the default device then is the CPU, is all that shows."""
    with built("cuda") as image:
        versions = "import torch, triton; print(torch.version.cuda is not None, torch.cuda.is_available())"
        assert image.run(data, ["python", "-c", versions])[1].splitlines()[-1] == "True False"
        code, found = image.run(data, ["premask", "doctor"], {"PREMASK_PORT": str(free_port(9850))})
        assert code == 0, found
        assert {"PREMASK_DEVICE=auto", "NVIDIA_VISIBLE_DEVICES=all"} <= set(image.config["Env"])
        print(f"image: {_megabytes(image.root)} MB")


def test_it_answers_label_studio_with_masks_on_a_root_that_cannot_be_written_to(image: Image, data: Path) -> None:
    phantom, file = render_phantom(910_001), io.BytesIO()
    Picture.fromarray(phantom.image).save(file, "PNG")
    with FakeLabelStudio() as label_studio:
        project = label_studio.add_project(CONFIG)
        label_studio.add_upload(project, "frame.png", file.getvalue())
        (task,) = label_studio.tasks.values()
        environ = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.legacy_token}
        with serving(image, data, **environ) as (url, variables):
            assert requests.get(f"{url}/health", timeout=10).json()["status"] == "UP"
            assert eventually(lambda: image.run(data, _healthcheck(image), variables)[0] == 0)
            assert image.run(data, _healthcheck(image), {"PREMASK_PORT": "1"})[0] == 1
            setup = requests.post(f"{url}/setup", json=setup_body(project, CONFIG, label_studio.url), timeout=60)
            assert setup.json() == {"model_version": "oct-lite0"}
            ready = requests.get(f"{url}/ready", timeout=60)
            assert ready.status_code == 200, ready.text
            body = predict_body([task["data"]["image"]], project, CONFIG, task["id"])
            answer = requests.post(f"{url}/predict", json=body, timeout=300).json()
    (result,) = answer["results"]
    assert iou(masks(result["result"]).get("Lumen"), phantom.masks["Lumen"]) >= 0.8


def test_doctor_finds_nothing_broken(image: Image, data: Path) -> None:
    code, found = image.run(data, ["premask", "doctor"], {"PREMASK_PORT": str(free_port(9800))})
    assert code == 0, found
    assert "checksums right" in found


def test_a_volume_that_belongs_to_root_is_refused_with_the_remedy(image: Image, tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir(mode=0o755)
    code, found = image.run(tmp_path / "roots", image.config["Cmd"])
    assert code == 1
    assert "PREMASK_DATA_DIR=/data: user id 1001 cannot write there" in found
    assert "chown -R 1001 /data" in found


def _healthcheck(image: Image) -> list[str]:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    return command


def _megabytes(folder: Path) -> int:
    return int(subprocess.run(["du", "-sm", folder], capture_output=True, check=True).stdout.split()[0])
