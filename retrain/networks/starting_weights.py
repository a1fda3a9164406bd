"""Weights that a network begins with: of a file, or of timm's hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors
from nas_osr.retrain.networks.foreign import Foreign, make_timm
from nas_osr.runs.checkpoints import read_checkpoint

logger = logging.getLogger(__name__)

PRETRAINED = "pretrained"


def load_weights(encoder: nn.Module, name: str, weights: str, image_shape: Shape) -> None:
    """Put weights into an encoder; those of another number of channels are summed (to grey) or spread (to colour).

    Args:
        encoder: of a network by name. Of another's network (`Foreign`) its own names count.
        name: of the network.
        weights: a file of safetensors or torch.save, or "pretrained" for those of timm's hub.
        image_shape: (C, H, W).

    Raises:
        UserError: they are not there, or of another network. What is in a file besides is passed over, and said.
    """
    module: nn.Module = encoder.body if isinstance(encoder, Foreign) else encoder
    found = hub_weights(name, image_shape) if weights == PRETRAINED else read_weight_file(user_path(weights))
    own = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in found]
    if missing:
        shown = ", ".join(missing[:3])
        raise UserError(f"weights {weights}: {len(missing)} of the {len(own)} tensors of {name} are missing: {shown}")
    state = {key: fit_channels(found[key], value) for key, value in own.items()}
    for key, value in own.items():
        if state[key].shape != value.shape:
            shapes = f"{list(found[key].shape)}, the network needs {list(value.shape)}"
            raise UserError(f"weights {weights}: {key} does not fit {name}: it is {shapes}")
    counters = {key: value for key, value in found.items() if key.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, strict=False)
    extra = [key for key in found if key not in own and key not in counters]
    passed_over = f"; passed over {', '.join(extra[:4])}" + (", ..." if len(extra) > 4 else "") if extra else ""
    logger.warning("weights %s: %d tensors for %s%s", weights, len(own), name, passed_over)


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without running any code of it; a common "module." is left out. UserError."""
    with file_errors(path, "read"):
        if not path.is_file():
            raise UserError(f"{path}: no such file of weights")
        if path.suffix == ".safetensors":
            try:
                return safetensors.torch.load(path.read_bytes())
            except safetensors.SafetensorError as error:
                raise UserError(f"{path}: not a file of safetensors: {error}") from error
    state: Mapping[str, Any] = read_checkpoint(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def hub_weights(name: str, image_shape: Shape) -> dict[str, Tensor]:
    """The weights of a network of timm, from its hub or what has been fetched from there before. Raises UserError."""
    try:
        return make_timm(name, image_shape, pretrained=True).state_dict()
    except Exception as error:  # whatever the client of the hub raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"weights pretrained: those of {name} cannot be had: {reason}; fetch a file and name it with --weights"
        ) from error


def fit_channels(value: Tensor, like: Tensor) -> Tensor:
    """A first convolution's weights [F, c, h, w] for another number c of image channels, 1 or 3; others as they are."""
    if value.dim() != 4 or like.dim() != 4 or {value.shape[1], like.shape[1]} != {1, 3}:
        return value
    return value.sum(dim=1, keepdim=True) if like.shape[1] == 1 else value.expand(-1, 3, -1, -1) / 3
