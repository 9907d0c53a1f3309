"""The model family "prompts": draws what an annotator points at, in a project for which no model was trained.

    prompt -> a view of the image, as large as the object needs -> prompt network -> mask

The whole image is looked at first. Where the object is small on it, the network looks again at a part of the image: at
a box's surroundings, or at those of what it has found by the clicks. Lines are followed in the image itself
(`models.thin`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import Card, load_weights, packaged_backbone, read_card, save_weights
from models.devices import autocast, check_device
from models.errors import CheckpointError
from models.fba_net import FBANet
from models.masks.metrics import iou
from models.object_model import AROUND, MAX_CLICKS, Image, ObjectEmbedding, ObjectModel, kept, sureness
from models.pipeline import check_image
from models.prompt import Click, Mask
from models.prompt_network import STRIDE, PromptNetwork, PromptNetworkConfig, Prompts, Pyramid
from models.prompt_views import SIDE, Drawn, Edges, View, around, cut, edges_of, fits, moved, paste, whole
from models.thin import clicks_on, covers, fits_box, is_thick, line_across, line_through

FAMILY = "prompts"
VIEWS = 5  # kept of an image: the whole, and parts
PARTS = (0.45, 0.2)  # sides of the first parts that are looked at, relative to the whole
WHOLE = 1.1  # a part must be this much more plausible than the whole image
SMALL = 0.12  # an object that takes less of a view's side is seen badly
SETTLED = 0.65  # IoU with what the network drew before a click, from which on it has found its object
KEPT = 0.7  # of a line, that it still has after another click on it
STAYS = 0.5  # of the clicks on an object, that must lie on the line that was shown for it
AROUND_BOX = 1.5  # side of a view, relative to the longer side of a box


@dataclass(frozen=True, eq=False)
class PromptEmbedding(ObjectEmbedding):
    """An image, and what the network has seen of it so far.

    Attributes:
        views: pyramids, the one used longest ago first.
    """

    views: OrderedDict[View, Pyramid] = field(default_factory=OrderedDict)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes at most."""
        seen = next(iter(self.views.values()))
        pyramid = sum(tensor.nbytes for tensor in (seen.colours, *seen.levels, seen.likeness))
        return self.image.nbytes + VIEWS * pyramid + MAX_CLICKS * SIDE * SIDE * 4


class PromptModel(ObjectModel[PromptEmbedding]):
    """See the module's text.

    Args:
        network: moved to `device` and put into evaluation mode.
        refiner, name, device: see `ObjectModel`.
    """

    def __init__(
        self, network: PromptNetwork, refiner: FBANet | None = None, *, name: str = "untrained", device: str = "cpu"
    ) -> None:
        super().__init__(refiner, name=name, device=device)
        self.network = network.to(self.device).eval()

    def embed(self, image: Image) -> PromptEmbedding:
        """Look at the whole image. Raises ValueError if it is none."""
        check_image(image)
        embedding = PromptEmbedding(image)
        self._pyramid(embedding, whole(embedding.shape))
        return embedding

    def _next(
        self,
        embedding: PromptEmbedding,
        clicks: Sequence[Click],
        edges: Edges | None,
        before: Drawn | None,
    ) -> Drawn:
        """What a box and the clicks so far mean, seen close enough."""
        if edges is not None:
            return self._look(embedding, around(edges, embedding.shape, AROUND_BOX), clicks, edges, before)
        if before is None:
            starts = list[Drawn]()
            for view in first_views(clicks, embedding.shape):
                starts.append(self._look(embedding, view, clicks, None, None))
                if worth(starts[-1], clicks, embedding.shape) >= 1:  # no part can be more plausible
                    break
            before = best_start(starts, clicks, embedding.shape)
            closer = self._closer(embedding, clicks, before)
            return before if closer == before.view else self._look(embedding, closer, clicks, None, before)
        return self._look(embedding, self._closer(embedding, clicks, before), clicks, None, before)

    def _line(
        self,
        embedding: PromptEmbedding,
        drawn: Drawn,
        before: Drawn | None,
        clicks: Sequence[Click],
        box: Mask | None,
    ) -> tuple[Click, ...] | None:
        """Whether a crack or a scratch, which is thinner than a cell, is meant by the blob that was drawn around it.

        Once clicks have shown a line it stays one: further clicks go to its faint ends and its edges, by which the
        network draws anything. A click on it by which most of it would vanish adds nothing.
        """
        if box is not None:
            line = None if clicks else self._followed(embedding, (), box)
            return () if line is not None and fits_box(line, self._mask(embedding, drawn, clicks, box), box) else None
        if before is not None and before.line:
            meant = (*before.line, clicks[-1])
            was, line = (self._followed(embedding, some, box) for some in (before.line, meant))
            if line is None or (was is not None and clicks[-1].positive and (line & was).sum() < KEPT * was.sum()):
                meant, line = before.line, was
            return meant if line is not None and clicks_on(line, clicks) >= STAYS else None
        mask = self._mask(embedding, drawn, clicks, box)
        line = None if is_thick(mask) else self._followed(embedding, clicks, box)
        if line is None or not covers(line, mask) or clicks_on(line, clicks) < 1:
            return None
        if before is not None:  # to change what was shown, more must speak for it
            changed = iou(mask, self._mask(embedding, before, clicks[:-1], box)) < SETTLED
            return tuple(clicks) if changed and clicks_on(line, clicks, beside=False) == 1 else None
        return tuple(clicks)

    def _followed(self, embedding: PromptEmbedding, clicks: Sequence[Click], box: Mask | None) -> Mask | None:
        return line_through(embedding.image, clicks) if box is None else line_across(embedding.image, box)

    def _closer(self, embedding: PromptEmbedding, clicks: Sequence[Click], before: Drawn) -> View:
        """The view that suits what was drawn and the clicks; the same as before if that shows as much."""
        found = kept(paste(before.probabilities, before.view, embedding.shape), clicks)
        wanted = around(edges_of(found, clicks), embedding.shape, AROUND)
        return before.view if fits(before.view, wanted) else wanted

    def _look(
        self,
        embedding: PromptEmbedding,
        view: View,
        clicks: Sequence[Click],
        edges: Edges | None,
        before: Drawn | None,
    ) -> Drawn:
        """One pass of the network's second part."""
        pyramid = self._pyramid(embedding, view)
        scale = SIDE / view.side
        points = [((c.x - view.x) * scale, (c.y - view.y) * scale, float(c.positive)) for c in clicks]
        boxes = [np.nan] * 4
        if edges is not None:
            boxes = [(edge - start) * scale for edge, start in zip(edges, (view.x, view.y) * 2, strict=True)]
        cells = SIDE // STRIDE
        earlier = np.zeros((cells, cells), dtype=np.float32)
        if before is not None:
            earlier = moved(before, view, cells)
        prompts = Prompts(
            torch.tensor(points, dtype=torch.float32).reshape(1, -1, 3) if points else torch.full((1, 1, 3), np.nan),
            torch.tensor([boxes], dtype=torch.float32),
            torch.from_numpy(earlier)[None, None],
            torch.tensor([float(before is not None)]),
        )
        with torch.inference_mode(), autocast(self.device):
            logits = self.network(pyramid, Prompts(*(tensor.to(self.device) for tensor in prompts)))
        return Drawn(view, logits.float().sigmoid().cpu().numpy()[0, 0])

    def _pyramid(self, embedding: PromptEmbedding, view: View) -> Pyramid:
        if (known := embedding.views.get(view)) is not None:
            embedding.views.move_to_end(view)
            return known
        seen = cut(embedding.image, view, SIDE)
        batch = torch.from_numpy(seen).to(self.device).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode(), autocast(self.device):
            pyramid = self.network.pyramid(batch)
        embedding.views[view] = pyramid
        while len(embedding.views) > VIEWS:
            embedding.views.popitem(last=False)
        return pyramid


def first_views(clicks: Sequence[Click], shape: tuple[int, int]) -> list[View]:
    """Views in which an object of unknown size may be seen well: the whole, and parts around the clicks on it."""
    places = [(click.x, click.y) for click in clicks if click.positive]
    views = [whole(shape)]
    if places:
        (x, y), long = np.mean(places, axis=0), max(shape)
        for share in PARTS:
            reach = share * long / 2
            view = around((x - reach, y - reach, x + reach, y + reach), shape, 1.0)
            if view not in views:
                views.append(view)
    return views


def best_start(starts: Sequence[Drawn], clicks: Sequence[Click], shape: tuple[int, int]) -> Drawn:
    """The worthiest of what was drawn in several views."""
    return max(starts, key=lambda drawn: worth(drawn, clicks, shape))


def worth(drawn: Drawn, clicks: Sequence[Click], shape: tuple[int, int]) -> float:
    """Plausibility, which is 1 at most; a part of the image must be clearly more plausible than the whole.

    The whole shows what is around the object, so it is right more often where both are sure.
    """
    return plausibility(drawn, clicks, shape) * (WHOLE if drawn.view == whole(shape) else 1.0)


def plausibility(drawn: Drawn, clicks: Sequence[Click], shape: tuple[int, int]) -> float:
    """How likely an object was seen well: drawn surely, neither tiny in its view nor cut off by the view's edge."""
    found = kept(paste(drawn.probabilities, drawn.view, shape), clicks)
    if not found.any():
        return 0.0
    left, top, right, bottom = edges_of(found)
    view = drawn.view
    size = max(right - left, bottom - top) / view.side
    slack = view.side / 64
    cut_off = (left <= view.x + slack and view.x > 0) or (top <= view.y + slack and view.y > 0)
    cut_off |= right >= view.x + view.side - slack and view.x + view.side < shape[1]
    cut_off |= bottom >= view.y + view.side - slack and view.y + view.side < shape[0]
    return sureness(drawn.probabilities) * (0.5 if cut_off else 1.0) * (1.0 if size >= SMALL else 0.7)


def save_prompt_model(network: PromptNetwork, directory: Path, card: Card) -> None:
    """Write a checkpoint folder, complete or not at all. Raises CheckpointError if it exists.

    A backbone that is ImageNet's, unchanged, is left out where an installed package has it.
    """
    card.family, card.backbone = FAMILY, network.config.backbone
    packaged = _packaged(network)
    ours = network.state_dict()
    left_out = bool(packaged) and all(torch.equal(ours[key].cpu(), tensor) for key, tensor in packaged.items())
    card.config = {"network": asdict(network.config), "backbone": "packaged" if left_out else "stored"}
    save_weights(directory, card, {"network": network}, without="backbone." if left_out else "")


def load_prompt_model(directory: Path, device: str = "cpu") -> PromptModel:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or its card describes something else.
        ModelError: the device is not there.
    """
    check_device(device)
    card = read_card(directory)
    if card.family != FAMILY:
        raise CheckpointError(f"{directory} is of the family {card.family!r}; only {FAMILY!r} can be used here")
    try:
        described = dict(card.config["network"])
        network = PromptNetwork(PromptNetworkConfig(**described | {"widths": tuple(described["widths"])}))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the card of {directory} describes no prompt network: {error!r}") from error
    packaged = _packaged(network) if card.config.get("backbone") == "packaged" else {}
    load_weights(directory, card, "network", network, packaged)
    return PromptModel(network, name=card.name, device=device)


def _packaged(network: PromptNetwork) -> dict[str, Tensor]:
    """ImageNet's weights of the backbone by the network's keys; empty where no installed package has them."""
    weights = packaged_backbone(network.config.backbone)
    if weights is None:
        return {}
    return {f"backbone.{key}": weights.get(key, tensor) for key, tensor in network.backbone.state_dict().items()}
