"""Independent random streams from one seed: the same names give the same stream, whatever else ran before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream that `names` call, e.g. `derive_seed(0, "augment", epoch)`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded by `derive_seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
