"""The sample project: synthetic intravascular OCT frames whose masks are known exactly."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.label_studio import connect
from backend.label_studio.client import LabelStudio
from models.data.png import encode_png
from models.phantom import CLASSES, render_phantom

TITLE = "premask sample: intravascular OCT"
DESCRIPTION = (
    "Synthetic frames; every mask was drawn by premask. Correct one, press Submit, and train from Settings > Model."
)
SEEDS = range(900_000, 900_024)  # far from the seeds that the starter weights were trained on
SIZE = 512  # pixels
CHUNK = 4  # frames per upload
COLOURS = ("#2e86de", "#f6b93b", "#e55039", "#78e08f")

# The smart brush of Label Studio 1.23.2 sends nothing, so it is not offered.
LABELS = "".join(
    f'<Label value="{name}" background="{colour}"/>' for name, colour in zip(CLASSES, COLOURS, strict=True)
)
CONFIG = f"""<View>
  <BrushLabels name="tissue" toName="image" smart="false">{LABELS}</BrushLabels>
  <Header size="6" value="Auto-Annotation: click on the tissue (Alt: not this) or box it; on a drawn mask hold Ctrl"/>
  <KeyPointLabels name="click" toName="image" smart="true" smartOnly="true">{LABELS}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">{LABELS}</RectangleLabels>
  <Image name="image" value="$image" zoom="true" zoomControl="true" brightnessControl="true" contrastControl="true"/>
  <Choices name="findings" toName="image" choice="multiple" showInline="true">
    {"".join(f'<Choice value="{name}"/>' for name in ("Fibrous cap", "Lipid core", "Vasa vasorum", "Lumen"))}
  </Choices>
</View>"""


@dataclass(frozen=True)
class SampleProject:
    """The project in Label Studio.

    Attributes:
        id: as in its address.
        seeds: the phantom's seed by task.
        resumed: it was there before.
        uploaded: frames that were missing and are now there.
    """

    id: int
    seeds: Mapping[int, int]
    resumed: bool
    uploaded: int


def prepare(client: LabelStudio, tell: Callable[[int], None], seeds: range = SEEDS) -> SampleProject:
    """Find the sample project or make it, and upload the frames it lacks after an earlier run.

    Args:
        client: Label Studio.
        tell: called with the number of frames there are, each time it grows.
        seeds: one frame each.
    """
    # Of several with this title the oldest is ours: Label Studio lists the newest first.
    found = min((int(project["id"]) for project in client.projects() if project["title"] == TITLE), default=None)
    project = int(client.create_project(TITLE, CONFIG, description=DESCRIPTION)["id"]) if found is None else found
    present = set(seeds_of(client, project).values())
    missing = [seed for seed in seeds if seed not in present]
    tell(len(seeds) - len(missing))
    # A few at a time: one request for all shows no progress, and a run that is killed would lose all of it.
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        files = {f"phantom-{seed}.png": encode_png(render_phantom(seed, SIZE).image) for seed in chunk}
        client.import_files(project, files)
        tell(len(seeds) - len(missing) + start + len(chunk))
    return SampleProject(project, seeds_of(client, project), found is not None, len(missing))


def move_backend(client: LabelStudio, project: int, url: str) -> None:
    """Give the backend that an earlier run registered its new address, if the port was changed since.

    A second registration would do nothing: Label Studio asks only a project's first backend for predictions.

    Args:
        client: Label Studio.
        project: the sample project.
        url: where the backend answers now.
    """
    registered = client.ml_backends(project)
    if any(backend["url"] == url for backend in registered):
        return
    # Named after the version it served, or not named yet.
    ours = [backend for backend in registered if backend["title"] in (connect.TITLE, backend.get("model_version"))]
    if not ours:
        return
    # Label Studio checks the new address with the fields of this request alone, so it needs the project again.
    client.update_ml_backend(ours[0]["id"], url=url, project=project)
    # Label Studio leaves the webhook behind at the old address.
    for webhook in client.webhooks(project):
        if webhook["url"] == f"{ours[0]['url']}/webhook":
            client.update_webhook(webhook["id"], url=f"{url}/webhook")


def seeds_of(client: LabelStudio, project: int) -> dict[int, int]:
    """The phantom's seed by task, oldest task first; tasks that somebody added are left out."""
    seeds: dict[int, int] = {}
    for task in sorted(client.export(project, all_tasks=True), key=lambda task: int(task["id"])):
        # Label Studio puts eight digits before the name of an uploaded file.
        if name := re.search(r"-phantom-(\d+)\.png$", str(task["data"].get("image", ""))):
            seeds[int(task["id"])] = int(name[1])
    return seeds
