"""The spaces, by name: what `--space` may be. Free of torch.

A space is a class derived from `Space`, whose defaults say what is chosen from. Its size is the preset's.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, dataclass
from typing import Any

from nas_osr.configuration import check_value
from nas_osr.errors import UserError, suggest
from nas_osr.option_docs import option_types
from nas_osr.plugins import load_class
from nas_osr.search_spaces.operations import ACTIVATIONS, OPERATIONS
from nas_osr.search_spaces.space import POOLINGS, Space

SPACES: dict[str, str] = {
    "paper": "nas_osr.search_spaces.space:Space",
    "wide": "nas_osr.search_spaces.spaces:Wide",
}


@dataclass(frozen=True)
class Wide(Space):
    """All operations in every cell, and all that can be chosen of the network as a whole."""

    operations: tuple[str, ...] = tuple(OPERATIONS)
    stems: tuple[str, ...] = ("strided", "pooled", "whitened")  # by name: another one changes all draws
    activations: tuple[str, ...] = ACTIVATIONS
    poolings: tuple[str, ...] = POOLINGS
    outputs: tuple[int, ...] = (1, 2)
    widths: tuple[float, ...] = (0.5, 1.0)
    two_inputs: bool = True


BUILDERS = ("__new__", "__init__", "__post_init__", "__getattr__", "__getattribute__")  # methods that make a value


def read_space(name: str) -> dict[str, Any]:
    """What the class of this name or dotted path (see `nas_osr.plugins.load_class`) says of the fields of `Space`, with
    or without `@dataclass` and annotations; of those that it leaves out nothing.

    Raises:
        UserError: there is no such class, a value is of the wrong type, or the class has what a search would not heed.
    """
    found, hints, said = load_class("space", name, SPACES, Space), option_types(Space), {}
    for part in reversed(found.__mro__[: found.__mro__.index(Space)]):
        _check_heeded(name, part)
        annotated, fields = inspect.get_annotations(part), vars(part).get("__dataclass_fields__", {})
        for field, hint in hints.items():
            # of a dataclass: a default that is made, or that stands in slots, is no attribute of the class
            value = fields[field] if field in annotated and field in fields else vars(part).get(field, MISSING)
            if isinstance(value, Field):
                value = value.default if value.default_factory is MISSING else value.default_factory()
            if value is not MISSING and not inspect.ismemberdescriptor(value):
                said[field] = check_value(value, hint, f"space {name}: {field}")
    return said


def _check_heeded(name: str, part: type) -> None:
    """UserError for a field or a method of a space of one's own, named `name`, that would be ignored."""
    fields = option_types(Space)
    for item in (*vars(part), *inspect.get_annotations(part)):
        code = getattr(vars(part).get(item), "__code__", None)
        generated = item == "__init__" and code is not None and code.co_filename == "<string>"  # by @dataclass
        changes = item in BUILDERS and not generated
        if changes or (item in vars(Space) and not item.startswith("__") and item not in fields):
            raise UserError(
                f"space {name}: {item} would be ignored, since a space is no more than its fields "
                f"({', '.join(fields)}): leave it out"
            )
        if not item.startswith("_") and item not in fields:
            raise UserError(
                f"space {name}: {item} is no field of a space: leave it out, or call it _{item} where only the class "
                f"needs it; there are {', '.join(fields)}{suggest(item, fields)}"
            )
