"""Plain values: what JSON and YAML files of a run can hold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.plain import plain

finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(values)
def test_plain_values_stay_as_they_are_and_survive_json(value):
    assert plain(value, "x") == value
    assert json.loads(json.dumps(plain(value, "x"), allow_nan=False)) == value


@dataclass
class Point:
    x: int
    y: tuple[float, ...]


def test_other_values_get_their_plain_form():
    value = {
        2: Point(1, (0.5,)),
        "array": np.arange(3, dtype=np.int32),
        "scalar": np.float32(0.5),
        "double": np.float64(0.5),
        "integer": np.int64(7),
        "tensor": torch.eye(2),
        "zero-dimensional": torch.tensor(True),
        "path": Path("a/b"),
        "set": {3, 1, 2},
    }
    converted = plain(value, "x")
    assert converted == {
        "2": {"x": 1, "y": [0.5]},
        "array": [0, 1, 2],
        "scalar": 0.5,
        "double": 0.5,
        "integer": 7,
        "tensor": [[1.0, 0.0], [0.0, 1.0]],
        "zero-dimensional": True,
        "path": "a/b",
        "set": [1, 2, 3],
    }
    assert yaml.safe_load(yaml.safe_dump(converted)) == converted  # no subclass of float or str is left


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("nan"), torch.tensor([1.0, -math.inf])])
def test_a_number_that_is_not_finite_is_named(bad):
    with pytest.raises(ValueError, match=r"metrics: losses: kl(\[1\])? is (nan|inf|-inf)"):
        plain({"losses": {"kl": bad}}, "metrics")


def test_what_has_no_plain_form_is_named():
    with pytest.raises(TypeError, match=r"x: a\[0\]: object"):
        plain({"a": [object()]}, "x")
