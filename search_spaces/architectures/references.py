"""Architectures by reference: a published name, a run folder, a file, or drawn from a seed."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from nas_osr.errors import UserError, show, suggest
from nas_osr.files.paths import user_path
from nas_osr.files.storage import read_config
from nas_osr.runs.names import FRONT_FILE, FRONT_FOLDER
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.graph import from_graph, read_graphml
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space


def published_names() -> list[str]:
    """The names of the architectures that ship with the package."""
    files = resources.files("nas_osr.search_spaces.architectures").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def published(name: str = "published") -> Architecture:
    """An architecture that ships with the package; "published" is the network of the NAS-OSR paper."""
    if name not in published_names():
        raise UserError(f"no published architecture {show(name)}: choose from {', '.join(published_names())}")
    file = resources.files("nas_osr.search_spaces.architectures") / f"{name}.json"
    return Architecture.from_json(file.read_text(encoding="utf-8"), file.name)


def load_architecture(reference: str | Path, space: Space | None = None) -> Architecture:
    """The architecture that a user names.

    Args:
        reference: a published name, a run folder, a `.json` or `.graphml` file, or "random:SEED".
        space: what "random:SEED" samples from; unused otherwise.

    Raises:
        UserError: there is no such thing, or it is not an architecture.
    """
    text = str(reference)
    if text in published_names():
        return published(text)
    if text.startswith("random:"):
        if space is None:
            raise UserError(f"{text}: a random architecture needs a search space to sample from (choose a preset)")
        if not re.fullmatch(r"[0-9]{1,18}", text.removeprefix("random:"), re.ASCII):
            raise UserError(f"{show(text)}: expected random:SEED with a whole number, such as random:0")
        return sample_architecture(space, int(text.removeprefix("random:")))
    path = user_path(reference)
    if path.exists() and path.name in (FRONT_FILE, FRONT_FOLDER):
        raise UserError(_several(path))
    if path.is_dir():
        if (path / "config.yaml").is_file() and not (path / "architecture.json").exists():
            network = read_config(path / "config.yaml").get("network")
            if network is not None:
                raise UserError(f"{path}: a retraining of network {show(network)}, which has no architecture")
        path = path / "architecture.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such architecture; give a run folder, a .json or .graphml file, random:SEED, "
            f"or one of {', '.join(published_names())}{suggest(text, published_names())}"
        )
    if path.suffix == ".graphml":
        return from_graph(read_graphml(path), str(path))
    return Architecture.load(path)


def _several(front: Path) -> str:
    """What to do instead of naming a front, which has several architectures."""
    files = sorted((front.parent / FRONT_FOLDER).glob("trial-*.json"))
    if files:
        return f"{front}: has several architectures: give the file of one, such as {files[0]}"
    return f"{front}: has several architectures: save what one of them has as `architecture` in a file of its own"
