"""Tiny checkpoints of SAM and SAM 2 with random weights, written by transformers itself."""

from pathlib import Path
from typing import Any

import torch

SIDE = 64  # of the square that they see, in pixels


def tiny_sam(kind: str) -> Any:
    """A model of the kind "sam" or "sam2"."""
    from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

    torch.manual_seed(5)
    decoder: dict[str, Any] = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    decoder |= {"iou_head_hidden_dim": 16}
    if kind == "sam":
        vision: dict[str, Any] = {
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vision |= {"image_size": SIDE, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1]}
        vision |= {"num_pos_feats": 8, "mlp_ratio": 1.0, "initializer_range": 0.2}
        prompts = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4}
        return SamModel(_config(SamConfig, vision, prompts, decoder)).eval()
    backbone: dict[str, Any] = {
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "model_type": "sam2_hiera_det_model",
    }
    backbone |= {"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1]}
    backbone |= {"window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [3]}
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16}
    vision |= {"backbone_feature_sizes": [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]}
    prompts = {"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    return Sam2Model(_config(Sam2Config, vision, prompts, decoder)).eval()


def _config(kind: Any, vision: dict[str, Any], prompts: dict[str, Any], decoder: dict[str, Any]) -> Any:
    parts = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    return kind(**parts, initializer_range=0.2)


def write_tiny_sam(folder: Path, kind: str = "sam") -> Path:
    """A checkpoint as it would be downloaded."""
    tiny_sam(kind).save_pretrained(folder)
    return folder
