"""How the commands that ask a trained model open it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from nas_osr.configuration import Checked
from nas_osr.option_docs import POSITIVE


@dataclass(kw_only=True)
class ModelOptions(Checked):
    """How the model is opened."""

    device: str = "auto"
    "auto, cpu, cuda or cuda:INDEX."
    batch_size: Annotated[int, POSITIVE] = 250
    "images in a forward pass."
    plugin: list[str] = field(default_factory=list)
    "modules with your own classes that the model is made with; a model folder by itself imports nothing."
