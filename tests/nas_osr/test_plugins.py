"""Classes by dotted path and settings from plain dictionaries."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES
from nas_osr.plugins import import_plugin, load_class, read_attribute
from nas_osr.scoring import RULES

BUILT_IN = {"ordered": "collections:OrderedDict"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable module of a user."""
    (tmp_path / "own_classes.py").write_text("class Mine(dict):\n    pass\n\ndef mine():\n    pass\n")
    (tmp_path / "broken_classes.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_classes"
    for name in ("own_classes", "broken_classes"):
        sys.modules.pop(name, None)


def test_built_in_and_dotted_names(module: str) -> None:
    assert load_class("thing", "ordered", BUILT_IN, dict).__name__ == "OrderedDict"
    with pytest.raises(UserError, match="--plugin own_classes"):
        load_class("thing", "own_classes.Mine", BUILT_IN, dict, import_plugins=False)
    assert module not in sys.modules
    mine = load_class("thing", "own_classes.Mine", BUILT_IN, dict)
    assert load_class("thing", "own_classes.Mine", BUILT_IN, dict, import_plugins=False) is mine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "unknown thing 'other': choose from ordered"),
        ("own_classes.Yours", "no class Yours derived from dict"),
        ("own_classes.mine", "no class mine derived from dict"),
        ("builtins.int", "no class int derived from dict"),
        ("nowhere_module.Mine", "no module nowhere_module"),
    ],
)
def test_what_is_no_such_class(module: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_class("thing", name, BUILT_IN, dict)


def test_an_error_inside_a_plugin_is_not_hidden(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_plugin("broken_classes")


@pytest.mark.parametrize("name", ["../../etc/passwd", ".relative.Class", "a..B", "a/b.C", ".", "a.", "a b.C"])
def test_only_dotted_names_are_looked_for(name: str) -> None:
    with pytest.raises(UserError, match="unknown"):
        load_class("objective", name, {}, object)
    with pytest.raises(UserError, match="expected the name of a module"):
        import_plugin(name)


def test_no_module_has_no_name() -> None:
    with pytest.raises(UserError, match="expected the name of a module"):
        import_plugin("")


@pytest.mark.parametrize("reference", [*OBJECTIVES.values(), *RULES.values()])
def test_what_the_source_of_a_shipped_class_says_is_what_the_class_has(reference: str) -> None:
    module, _, name = reference.partition(":")
    shipped = getattr(importlib.import_module(module), name)
    attributes = {"needs": None, "paper": None, "needs_head": False}
    if reference in OBJECTIVES.values():
        attributes = {"provides": None, "default_rule": None, "last_layer": ""}
    for attribute, default in attributes.items():
        assert read_attribute(reference, attribute, default) == getattr(shipped, attribute)


def test_what_the_source_does_not_say_plainly_is_asked_of_the_class(module: str, tmp_path: Path) -> None:
    (tmp_path / "own_classes.py").write_text(
        "class Base:\n    plain: frozenset[str] = frozenset({'a'})\n\n\n"
        "class Mine(Base):\n    word = 'b'\n    made = Base.plain | {'c'}\n    bare: str\n"
    )
    assert read_attribute("own_classes:Mine", "plain") == {"a"}
    assert read_attribute("own_classes:Mine", "word") == "b"
    assert module not in sys.modules
    assert read_attribute("own_classes:Mine", "made") == {"a", "c"}
    with pytest.raises(AttributeError):
        read_attribute("own_classes:Mine", "bare")
