"""A user's own classes by dotted path, and typed settings from plain dictionaries."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas_osr.errors import UserError, show, suggest

T = TypeVar("T")
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # nothing relative, no paths
MAX_NAME = 200  # characters of a dotted path


def check_name(kind: str, name: str, built_in: Collection[str], where: str = "") -> None:
    """UserError, beginning with `where`, unless `name` is built in or could be a dotted path. Nothing is imported."""
    if name not in built_in and not (len(name) <= MAX_NAME and DOTTED.fullmatch(name)):
        known = ", ".join(built_in)
        hint = suggest(name, built_in)
        raise UserError(f"{where}unknown {kind} {show(name)}: choose from {known} or give package.module.Class{hint}")


def load(reference: str) -> Any:
    """What "module:name" refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def load_class(
    kind: str, name: str, built_in: Mapping[str, str], base: type[T], *, import_plugins: bool = True
) -> type[T]:
    """The class called `name`: a key of `built_in` ("module:Class"), or package.module.Class of a plug-in.

    Args:
        kind: what it is, for messages: "objective", "scoring rule", ...
        name: name or dotted path.
        built_in: where the shipped ones are.
        base: what the class must derive from, so that a name cannot stand for just any callable.
        import_plugins: whether a plug-in's module may be imported. Say False for names read from a run folder or an
            architecture: then only modules that are imported already are looked at.

    Raises:
        UserError: there is no such module, or no such class in it.
    """
    if name in built_in:
        return load(built_in[name])
    check_name(kind, name, built_in)
    module_name, _, attribute = name.rpartition(".")
    if module_name not in sys.modules:
        if not import_plugins:
            raise UserError(f"{kind} {name!r} is a plug-in that is not loaded: add --plugin {module_name}")
        import_plugin(module_name)
    found = getattr(sys.modules[module_name], attribute, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{kind} {name!r}: {module_name} has no class {attribute} derived from {base.__name__}")
    return found


def read_attribute(reference: str, name: str, default: Any = None) -> Any:
    """An attribute of the shipped class "module:Class", read from its source: importing it would take torch.

    The class, or a base of it in the same file, says it as a constant or as a frozenset of constants; where none does,
    it is `default`, or else the class is imported.
    """
    module, _, found = reference.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    owner = found
    while owner in classes:
        for node in classes[owner].body:
            assigned = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if getattr(assigned, "id", None) == name and value is not None:
                with contextlib.suppress(ValueError):
                    if isinstance(value, ast.Call) and ast.unparse(value.func) == "frozenset":
                        return frozenset(*map(ast.literal_eval, value.args))
                    return ast.literal_eval(value)
        owner = next((base.id for base in classes[owner].bases if isinstance(base, ast.Name)), "")
    return getattr(load(reference), name) if default is None else default


def import_plugin(module_name: str) -> None:
    """Import a module that the user named; UserError when there is none."""
    if not DOTTED.fullmatch(f"{module_name}.x"):
        raise UserError(f"plug-in {show(module_name)}: expected the name of a module, such as package.module")
    try:
        importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # only the plug-in's own absence is the user's mistake; what fails inside it shows its traceback
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"plug-in {module_name}: there is no module {error.name} on the Python path") from error
