"""What the configurations of searching and retraining share. Free of torch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.errors import UserError

# Where a run goes and how it talks: no part of what is computed, so not written into config.yaml.
NOT_RECORDED = frozenset({"out", "resume", "overwrite", "dry_run", "json", "quiet"})


def recorded_fields(config: Any) -> dict[str, Any]:
    """The fields of a configuration that decide its result, as plain values."""
    return {item.name: getattr(config, item.name) for item in fields(config) if item.name not in NOT_RECORDED}


def check_positive(config: Any, *names: str) -> None:
    """UserError unless each of these fields is greater than zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} must be greater than 0, got {getattr(config, name)}")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """UserError unless the field is one of the choices."""
    if getattr(config, name) not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def config_protocol(config: Any, split: int) -> Protocol:
    """The protocol that a configuration names, on this split. Raises UserError."""
    return make_protocol(
        config.protocol,
        split,
        family=config.family,
        known=config.known,
        seed=config.class_seed,
        data_dir=config_data_dir(config),
    )


def config_data_dir(config: Any) -> Path | None:
    """The folder of images that a configuration names, or None for the environment's."""
    return None if config.data_dir is None else Path(config.data_dir)
