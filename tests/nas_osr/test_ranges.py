"""No option of any request and no setting of any config is without a range, and what is outside is refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from typing import Annotated, Any, get_args, get_origin

import pytest

from nas_osr.cli.commands import COMMANDS
from nas_osr.configuration import make_request
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SHARE, Range, list_defaults, named_types, option_types
from nas_osr.retrain.networks.plain_network import PlainConfig
from nas_osr.scoring import RULES, make_rule, rule_class
from nas_osr.strategies import STRATEGIES, strategy_class
from nas_osr.training.recipes import Recipe

REQUESTS = {command.options for command in COMMANDS.values() if command.config}
CONFIGS = [
    *(objective_class(name).config_class for name in OBJECTIVES),
    *(strategy_class(name).Config for name in STRATEGIES),
    Recipe,
    PlainConfig,
]
# what `Space` checks, which has its own limits, and the pairs that must rise as well
ELSEWHERE = {"layers", "channels", "branches", "gamma"}


def ranges_of(hint: Any) -> Iterator[Range]:
    """The ranges in a hint, at any depth."""
    if get_origin(hint) is Annotated:
        yield from (part for part in get_args(hint)[1:] if isinstance(part, Range))
    for part in get_args(hint):
        yield from ranges_of(part)


def is_number(hint: Any) -> bool:
    """Whether numbers are among what a hint allows, by themselves or in a list."""
    kinds = set(named_types(hint))
    inner = [part for part in get_args(hint) if get_args(part)]
    return bool(kinds & {int, float}) or any(map(is_number, inner)) or set(get_args(hint)) & {int, float} != set()


def outside(allowed: Range) -> list[float]:
    """Numbers that a range leaves out."""
    below = [allowed.low] if allowed.above and not allowed.or_zero else []
    above = [allowed.high] if allowed.below else []
    past = [] if allowed.high == math.inf else [allowed.high + 1]
    return [-1 if allowed.low >= 0 else allowed.low - 1, *below, *above, *past]


@pytest.mark.parametrize("kind", sorted({*REQUESTS, *CONFIGS}, key=lambda kind: kind.__qualname__))
def test_every_number_has_a_range_and_is_refused_outside(kind: Callable[..., Any]) -> None:
    needed = {
        "run": "r",
        "file": "f",
        "rule": "msp",
        "architecture": "a",
        "learning_rate": 0.1,
        "model": "m",
        "images": ["i"],
        "folder": "f",
    }
    complete = {name: needed[name] for name, default in list_defaults(kind).items() if default is MISSING}
    make_request(kind, complete, "here")
    for name, hint in option_types(kind).items():
        ranges = list(ranges_of(hint))
        if name in ELSEWHERE and not ranges:
            continue
        assert bool(ranges) == is_number(hint), name
        for allowed in ranges:
            several = list in named_types(hint) or tuple in named_types(hint)
            for number in [*outside(allowed), math.nan, math.inf, -math.inf]:
                value = [number] if several else number
                with pytest.raises(UserError, match=rf"^here: {name} must "):
                    make_request(kind, {**complete, name: value}, "here")
                with pytest.raises(UserError, match=rf"{name} must "):
                    kind(**{**complete, name: value})  # nor does a script that builds a request by itself


@pytest.mark.parametrize("name", RULES)
def test_every_setting_of_every_rule_is_checked(name: str) -> None:
    for setting in inspect.signature(rule_class(name)).parameters:
        for value in (-1, math.nan, math.inf, "many", [[]]):
            with pytest.raises(UserError, match=f"scoring rule '{name}': .*{setting}"):
                make_rule(name, {setting: value})


@pytest.mark.parametrize(
    ("allowed", "inside", "out", "text"),
    [
        (POSITIVE, [1e-300, 7], [0, -1], "be greater than 0"),
        (NOT_NEGATIVE, [0, 1e300], [-1e-300], "not be negative"),
        (SHARE, [0, 0.5, 1], [-0.1, 1.1], "lie in [0, 1]"),
        (Range(0, 1, above=True, below=True), [0.5], [0, 1], "lie in (0, 1)"),
        (Range(16, or_zero=True), [0, 16, 17], [1, 15, -1], "be 0 or at least 16"),
        (Range(2), [2], [1, 0], "be at least 2"),
    ],
)
def test_a_range_says_what_it_holds(allowed: Range, inside: list[float], out: list[float], text: str) -> None:
    assert all(number in allowed for number in inside) and not any(number in allowed for number in out)
    assert str(allowed) == text
