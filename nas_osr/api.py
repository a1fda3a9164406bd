"""What a user's script calls: each command of the command line as a function with the same options as keywords."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from nas_osr.errors import UserError

T = TypeVar("T")


def search(**options: Any) -> dict[str, Any]:
    """Search an architecture; options of `SearchRequest`, result of `run_search`.

    Raises UserError when an option is wrong or data are missing.
    """
    from nas_osr.strategies.run import run_search
    from nas_osr.strategies.search_request import SearchRequest

    return run_search(make_options("search", SearchRequest, options), ["nas_osr.search"])


def train(**options: Any) -> dict[str, Any]:
    """Train and evaluate an architecture; options of `RetrainRequest`, result of `run_retrain`.

    Raises UserError when an option is wrong or data are missing.
    """
    from nas_osr.retrain.retrain_request import RetrainRequest
    from nas_osr.retrain.run import run_retrain

    return run_retrain(make_options("retrain", RetrainRequest, options), ["nas_osr.train"])


def evaluate(**options: Any) -> list[dict[str, Any]]:
    """Evaluate a retrained network again; options of `EvaluateRequest`, result of `run_evaluate`.

    Raises UserError when an option is wrong or data are missing.
    """
    from nas_osr.retrain.evaluate import run_evaluate
    from nas_osr.retrain.retrain_request import EvaluateRequest

    return run_evaluate(make_options("evaluate", EvaluateRequest, options))


def make_options(command: str, config_class: type[T], options: dict[str, Any]) -> T:
    """The configuration of a command; UserError on an option that it does not have, or on one that is missing."""
    items = fields(config_class)  # type: ignore[arg-type]
    known = [item.name for item in items]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{command} has no option {unknown[0]!r}: it has {', '.join(known)}")
    for item in items:
        if item.default is MISSING and item.default_factory is MISSING and item.name not in options:
            raise UserError(f"{command}: {item.name} is missing")
    return config_class(**options)
