"""Images are prepared in float32 whatever the training's precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_autocast(
    prepare: Callable[Concatenate[Tensor, P], R],
) -> Callable[Concatenate[Tensor, P], R]:
    """Let a function of images (its first argument) run without autocast, on whatever device they are.

    Under autocast sampling grids would be made in bf16, which has 8 bits for 32 pixels and their fractions, and some
    operations refuse the mixture of both.
    """

    @functools.wraps(prepare)
    def prepared(images: Tensor, *arguments: P.args, **keywords: P.kwargs) -> R:
        with torch.autocast(images.device.type, enabled=False):
            return prepare(images, *arguments, **keywords)

    return prepared
