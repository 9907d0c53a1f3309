"""The model family "sam": Segment Anything (Kirillov et al. 2023) or SAM 2 (Ravi et al. 2024), read by transformers.

    prompt -> SAM -> coarse mask -> FBANet on the object's surroundings -> mask

The folder is a checkpoint in transformers' format: config.json and weights as safetensors. It is read from the disk
alone, and no code that lies in it is run. transformers is the extra `premask[sam]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.devices import autocast, check_device
from models.errors import CheckpointError
from models.fba_net import FBANet
from models.first_refiner import first_refiner
from models.object_model import MAX_CLICKS, Image, ObjectEmbedding, ObjectModel
from models.pipeline import check_image
from models.prompt import Click
from models.prompt_views import Drawn, Edges, Probabilities, edges_of, moved, paste, whole
from models.sam_checkpoint import KINDS, sam_card, sam_kind, transformers_missing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, with which all of them were trained
SUREST = 1e-4  # probabilities of an earlier mask are kept this far from 0 and 1, where logits have no end


@dataclass(frozen=True, eq=False)
class SamEmbedding(ObjectEmbedding):
    """An image as SAM sees it.

    Attributes:
        features: of the image, of SAM one tensor, of SAM 2 one a scale.
        size: height and width of the image inside SAM's square, in its pixels.
        cells: side of the masks that SAM draws, in pixels.
    """

    features: tuple[Tensor, ...] = ()
    size: tuple[int, int] = (1, 1)
    cells: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes at most."""
        return self.image.nbytes + sum(one.nbytes for one in self.features) + MAX_CLICKS * self.cells**2 * 4


class Sam(ObjectModel[SamEmbedding]):
    """See the module's text.

    Args:
        network: transformers' SamModel or Sam2Model; moved to `device` and put into evaluation mode.
        refiner, name, device: see `ObjectModel`.
    """

    def __init__(self, network: Any, refiner: FBANet | None = None, *, name: str = "sam", device: str = "cpu") -> None:
        super().__init__(refiner, name=name, device=device)
        self.network = network.to(self.device).eval()
        self._side = _first(network.config.prompt_encoder_config.image_size)
        self._cells = 4 * int(network.prompt_encoder.image_embedding_size[0])
        self._stretches = hasattr(network.config.vision_config, "backbone_config")  # SAM 2 does; SAM adds a border

    def embed(self, image: Image) -> SamEmbedding:
        """Look at the image. Raises ValueError if it is none."""
        check_image(image)
        height, width = image.shape[:2]
        size = self._side, self._side
        if not self._stretches:
            scale = self._side / max(height, width)
            size = max(round(height * scale), 1), max(round(width * scale), 1)
        way = cv2.INTER_AREA if max(height, width) > self._side else cv2.INTER_LINEAR
        scaled = cv2.resize(image, size[::-1], interpolation=way).astype(np.float32) / 255
        square = np.zeros((self._side, self._side, 3), dtype=np.float32)
        square[: size[0], : size[1]] = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        batch = torch.from_numpy(square).to(self.device).permute(2, 0, 1)[None]
        with torch.inference_mode(), autocast(self.device):
            found = self.network.get_image_embeddings(batch)
        features = tuple(one.float() for one in (found if isinstance(found, list | tuple) else (found,)))
        return SamEmbedding(image, features=features, size=size, cells=self._cells)

    def _next(
        self, embedding: SamEmbedding, clicks: Sequence[Click], edges: Edges | None, before: Drawn | None
    ) -> Drawn:
        if edges is None and not clicks and before is not None:  # a mask alone says where, too
            edges = edges_of(paste(before.probabilities, before.view, embedding.shape))
        height, width = embedding.shape
        down, right = embedding.size[0] / height, embedding.size[1] / width
        asked: dict[str, Tensor] = {}
        if clicks:
            points = [[c.x * right - 0.5, c.y * down - 0.5] for c in clicks]  # SAM counts from the pixels' centres
            asked["input_points"] = torch.tensor([[points]], dtype=torch.float32)
            asked["input_labels"] = torch.tensor([[[int(c.positive) for c in clicks]]])
        if edges is not None:
            box = [edge * scale - 0.5 for edge, scale in zip(edges, (right, down) * 2, strict=True)]
            asked["input_boxes"] = torch.tensor([[box]], dtype=torch.float32)
        if before is not None:
            asked["input_masks"] = torch.from_numpy(self._as_logits(embedding, before))[None, None]
        # One click may mean a part or the whole: SAM draws three masks and says how good it believes each to be.
        several = edges is None and before is None and len(clicks) == 1
        features = list(embedding.features) if self._stretches else embedding.features[0]
        with torch.inference_mode():
            drawn = self.network(
                image_embeddings=features,
                multimask_output=several,
                **{name: tensor.to(self.device) for name, tensor in asked.items()},
            )
        best = int(drawn.iou_scores.reshape(-1).argmax())
        logits = drawn.pred_masks.reshape(-1, self._cells, self._cells)[best]
        found = logits.float().sigmoid().cpu().numpy()
        way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = self._cells, self._cells
        seen = cv2.warpAffine(found, self._to_square(embedding), size, flags=way, borderMode=cv2.BORDER_REPLICATE)
        return Drawn(whole(embedding.shape), np.asarray(seen, dtype=np.float32))

    def _as_logits(self, embedding: SamEmbedding, drawn: Drawn) -> Probabilities:
        """What was drawn as SAM takes it: logits on its square."""
        seen = moved(drawn, whole(embedding.shape), self._cells)
        square = cv2.warpAffine(seen, self._to_square(embedding), (self._cells, self._cells), flags=cv2.INTER_LINEAR)
        sure = np.clip(square, SUREST, 1 - SUREST)
        return np.asarray(np.log(sure / (1 - sure)), dtype=np.float32)

    def _to_square(self, embedding: SamEmbedding) -> NDArray[np.float64]:
        """The affine map from pixels of the view of the whole image to those of SAM's square."""
        view, rows = whole(embedding.shape), []
        starts = view.x, view.y
        for axis, (start, inside, length) in enumerate(
            zip(starts, embedding.size[::-1], embedding.shape[::-1], strict=True)
        ):
            scale = inside / length * self._cells / self._side  # of the square's pixels to the image's
            step = view.side / self._cells
            factors = [0.0, 0.0]
            factors[axis] = step * scale
            rows.append([*factors, (0.5 * step + start) * scale - 0.5])
        return np.array(rows)


def _first(size: Any) -> int:
    """A side that a config gives as a number or once an axis."""
    return int(size[0] if isinstance(size, list | tuple) else size)


def load_sam(directory: Path, device: str = "cpu") -> Sam:
    """Read a checkpoint of SAM or SAM 2, its outlines to be refined by the shipped FBANet.

    Raises:
        CheckpointError: the folder is incomplete or damaged, or transformers is not installed.
        ModelError: the device is not there.
    """
    check_device(device)
    card = sam_card(directory)
    if transformers_missing():
        raise CheckpointError(
            f"{directory} is a checkpoint of SAM, which transformers reads, and that is not installed",
            "install it: pip install 'premask[sam]'",
        )
    import transformers

    config_class, model_class = KINDS[sam_kind(directory) or ""]
    try:
        # These classes, whatever the folder says of others: no code of its own is run, and nothing is unpickled.
        config = getattr(transformers, config_class).from_pretrained(directory, local_files_only=True)
        network, report = getattr(transformers, model_class).from_pretrained(
            directory, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # of a dozen kinds, for every way in which files can be wrong
        raise CheckpointError(f"{directory} cannot be read as a checkpoint of SAM: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{directory} is incomplete: {len(missing)} tensors are missing, such as {missing[0]}")
    return Sam(network, first_refiner(), name=card.name, device=device)
