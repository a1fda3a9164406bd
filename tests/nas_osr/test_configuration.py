"""Values checked and converted alike, whoever gives them; ranges of splits and seeds as users write them."""

from __future__ import annotations

import collections
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.cli.options import parse_options
from nas_osr.configuration import ClassNames, Numbers, make_config, make_request
from nas_osr.errors import UserError
from nas_osr.files.paths import absolute_path, user_path
from nas_osr.files.storage import read_config
from nas_osr.files.yaml_text import format_yaml, parse_yaml
from nas_osr.option_docs import Range, named_types, option_types
from nas_osr.plain import plain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.sweeps.sweep_folder import list_arguments


@dataclass
class Request:
    """One option of every kind."""

    word: str
    whole: int = 1
    share: float = 0.5
    flag: bool = False
    kind: Literal["one", "two"] = "one"
    splits: Numbers = "0"
    place: Path = Path(".")
    settings: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    counts: list[int] | None = None
    anything: list[Any] | None = None
    maybe: float | None = None
    known: ClassNames | None = None


# no text that the command line has a meaning of its own for: null, and brackets around items
letters = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="[{")
texts = st.text(letters, max_size=6).filter(lambda text: text != "null")
paths = texts.map(lambda text: os.path.abspath(f"/{text}"))
finite = st.floats(allow_nan=False, allow_infinity=False)
entries = st.dictionaries(
    st.text(letters, max_size=4), finite | st.integers() | texts | st.booleans() | st.none(), max_size=3
)
# whatever a folder can be called, and what YAML would take for no text
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=8)
names = names | st.sampled_from(
    ["null", "no", "1e3", "01", "1.0", "true", "~", "a, b", "it's", '"', "[a]", "{", "é: #"]
)
VALUES = {
    str: texts, int: st.integers(-(10**9), 10**9), float: finite, bool: st.booleans(), NoneType: st.none(),
    Any: texts | entries | st.lists(st.integers() | finite), dict: entries, Path: paths.map(Path),
}  # fmt: skip


def inside(value: Any, allowed: Range) -> Any:
    """The value, each number in it one that is allowed."""
    if isinstance(value, list):
        return [inside(item, allowed) for item in value]
    between = allowed.low + 1 if allowed.high == math.inf else (allowed.low + allowed.high) / 2
    return value if value is None or value in allowed else type(value)(between)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a hint."""
    if hint is ClassNames:
        return st.lists(names | st.lists(names, max_size=3), max_size=3)
    if hint is Numbers:
        return st.sampled_from(["0", "0-4", "1,3"])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is list:
        return st.lists(values_of(get_args(hint)[0]), max_size=3)
    if get_origin(hint) is Annotated:
        inner, *about = get_args(hint)
        ranges = [item for item in about if isinstance(item, Range)]
        if user_path in about or absolute_path in about:
            return paths
        return values_of(inner).map(lambda value: inside(value, ranges[0])) if ranges else values_of(inner)
    if get_origin(hint) in (Union, UnionType):
        return st.one_of([values_of(part) for part in get_args(hint)])
    parts = get_args(hint) if get_origin(hint) is not dict else ()
    return st.one_of([values_of(part) for part in parts]) if parts else VALUES[next(named_types(hint))]


def requests_of(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values_of(hint) for name, hint in option_types(kind).items()})


@pytest.mark.parametrize("kind", [Request, SearchRequest, RetrainRequest])
@settings(max_examples=40)
@given(st.data())
def test_python_yaml_and_the_command_line_give_equal_requests(tmp_path_factory: Any, kind: type, data: Any) -> None:
    values = data.draw(requests_of(kind)) | ({"word": "x"} if kind is Request else {})
    request = make_request(kind, values, "python")
    assert {name: getattr(request, name) for name in values} == values
    arguments = list_arguments(plain(values, "values"), "")
    assert kind(**parse_options(kind, arguments, "command")) == request
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(format_yaml(plain(vars(request), "config")), encoding="utf-8")
    assert make_request(kind, read_config(file), str(file)) == request
    assert kind(**parse_options(kind, ["--config", str(file)], "command")) == request


def disguise(value: Any) -> Any:
    """A plain value as NumPy and Python have it, too."""
    if isinstance(value, dict):
        return collections.OrderedDict((name, disguise(item)) for name, item in value.items())
    if isinstance(value, list):
        return tuple(map(disguise, value))
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    fits = type(value) is not int or abs(value) < 1 << 63
    return kinds[type(value)](value) if type(value) in kinds and fits else value


@pytest.mark.parametrize("kind", [Request, SearchRequest, RetrainRequest])
@settings(max_examples=40)
@given(st.data())
def test_a_script_may_give_numpy_values_to_a_request_itself(kind: type, data: Any) -> None:
    values = data.draw(requests_of(kind)) | ({"word": "x"} if kind is Request else {})
    expected = make_request(kind, values, "python")
    assert make_request(kind, disguise(values), "python") == expected
    if kind is not Request:  # whose base checks nothing
        made = kind(**disguise(values))
        assert made == expected and parse_yaml(format_yaml(vars(made)), "config") == plain(vars(expected), "config")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("whole", np.int64(3), 3),
        ("whole", np.array(3), 3),
        ("whole", torch.tensor(3), 3),
        ("share", np.float32(0.25), 0.25),
        ("share", 2, 2.0),
        ("flag", np.bool_(True), True),
        ("word", np.str_("a"), "a"),
        ("word", Path("a/b"), "a/b"),
        ("place", "a/b", Path("a/b")),
        ("names", ("a", Path("b")), ["a", "b"]),
        ("counts", range(3), [0, 1, 2]),
        ("counts", np.arange(3), [0, 1, 2]),
        ("counts", {2, 1}, [1, 2]),
        ("splits", range(2), "0,1"),
        ("splits", [0, 2], "0,2"),
        ("splits", np.int64(4), "4"),
        ("splits", ["0-2", 4], "0-2,4"),
        ("settings", collections.OrderedDict(a=(1, np.float64(2.0))), {"a": [1, 2.0]}),
        ("anything", [np.int8(1), (2, 3)], [1, [2, 3]]),
    ],
)
def test_what_python_has_counts_as_its_plain_value(name: str, given: Any, value: Any) -> None:
    found = getattr(make_request(Request, {"word": "x", name: given}, "python"), name)
    assert found == value and type(found) is type(value)
    if isinstance(value, list):
        assert list(map(type, found)) == list(map(type, value))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("word", 3, "word must be text, got 3"),
        ("word", None, "word must be text, got None"),
        ("whole", 1.0, "whole must be a whole number, got 1.0"),
        ("whole", True, "whole must be a whole number, got True"),
        ("whole", "3", "whole must be a whole number, got '3'"),
        ("whole", np.float64(2.0), "whole must be a whole number, got "),
        ("share", math.nan, "share must be a finite number, got nan"),
        ("share", 10**400, "share must be a finite number, got a huge number"),
        ("flag", 1, "flag must be true or false, got 1"),
        ("kind", "three", "kind must be one of one, two, got 'three'"),
        ("splits", 0.5, "splits must be whole numbers such as 0, 0-4 or 0,2,5-7, got 0.5"),
        ("place", 3, "place must be a path, got 3"),
        ("settings", [1], "settings must be a mapping {name: value, ...}, got a list"),
        ("settings", {"a": [1, math.inf]}, "settings must be a mapping {name: value, ...}, got an object (inside: a"),
        ("names", "a", "names must be a list [text, ...], got 'a'"),
        ("names", ["a", 1], "names must be a list [text, ...], got a list"),
        ("counts", [1, "2"], "counts must be a list [a whole number, ...] or null, got a list"),
        ("anything", [object()], "anything must be a list [...] or null, got a list (inside[0]: object has no"),
        ("maybe", "x", "maybe must be a finite number or null, got 'x'"),
        ("wrod", "x", "there is no option wrod; did you mean word?"),
        ("zzz", "x", "there is no option zzz"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_says_what_is_expected(name: str, given: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_request(Request, {"word": "x", name: given}, "here")
    assert str(caught.value).startswith(f"here: {message}") and "\n" not in str(caught.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(UserError, match="^here: word is missing$"):
        make_request(Request, {"whole": 1}, "here")


@dataclass(frozen=True)
class Settings:
    """Of a thing."""

    weight: float = 1.0
    count: int = 2
    on: bool = False
    shape: tuple[int, ...] | None = None


def test_settings_are_converted() -> None:
    settings = make_config("thing", Settings, {"weight": 3, "shape": [1, 2]})
    assert settings == Settings(3.0, 2, False, (1, 2)) and isinstance(settings.weight, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wait": 1.0}, "thing has no setting 'wait': it has weight, count, on, shape"),
        ({"weight": "1"}, "thing: weight must be a finite number, got '1'"),
        ({"weight": float("nan")}, "weight must be a finite number"),
        ({"weight": True}, "weight must be a finite number"),
        ({"count": 2.5}, "count must be a whole number"),
        ({"count": True}, "count must be a whole number"),
        ({"on": 1}, "on must be true or false"),
    ],
)
def test_wrong_settings(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config("thing", Settings, values)


class Undecorated(Settings):
    weight: float = 2.0


@dataclass(frozen=True)
class Untyped(Settings):
    count = 3


@dataclass(frozen=True)
class Derived(Untyped):
    weight: float = 2.0


@dataclass(frozen=True)
class Harmless(Settings):
    """What is no setting may be anything."""

    KINDS: ClassVar[tuple[str, ...]] = ("a",)
    limit = 3
    weight: float = 2.0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Undecorated, r"^thing: Undecorated ignores weight: put @dataclass\(frozen=True\) above the class$"),
        (Untyped, "^thing: Untyped ignores count: give it a type there, as its base does$"),
        (Derived, "^thing: Untyped ignores count"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(kind: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config("thing", kind, {})


def test_what_is_no_setting_is_left_alone() -> None:
    assert make_config("thing", Harmless, {}) == Harmless(weight=2.0)
