"""YAML with care: plain values as PyYAML has them, and nothing that grows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.files.storage import read_config
from nas_osr.files.yaml_text import format_yaml, parse_yaml
from nas_osr.sweeps.sweep_file import Content

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values_come_back(value: object) -> None:
    assert parse_yaml(format_yaml(value), "text") == value
    assert yaml.safe_load(format_yaml(value)) == value


@pytest.mark.parametrize(
    "text", ["no", "Yes", "on", "1:30", "1:59:59.5", "007", "08", "1_000", "2020-01-01", "1e", "e3"]
)
def test_words_and_odd_numbers_stay_text(text: str) -> None:
    assert parse_yaml(f"[{text}, {{{text}: {text}}}]", "text") == [text, {text: text}]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E5", -2e5), (".5", 0.5), ("+1.5e+3", 1500.0), ("0x1F", 31), ("-0", 0), ("True", True)],
)
def test_numbers_are_read_as_they_are_written(text: str, value: object) -> None:
    found = parse_yaml(text, "text")
    assert found == value and type(found) is type(value)


def test_aliases_and_merges_are_what_pyyaml_makes_of_them() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: [*a, *a]\n"
    assert parse_yaml(text, "text") == yaml.safe_load(text)
    assert parse_yaml("", "text") is None


def laughs(kind: str, width: int = 10, depth: int = 12) -> str:
    """Ten of ten of ten ...: a short file that is 10**12 values when it is written out."""
    lines = ["about: x", "a0: &a0 {x: ha}"]
    for level in range(1, depth):
        inside = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"[{inside}]" if kind == "list" else f"{{<<: [{inside}]}}"))
    return "\n".join(lines)


BAD = {
    "list": laughs("list"),
    "merge": laughs("merge"),
    "itself": "a: &a [*a]",
    "chain": "a0: &a0 [x]\n" + "\n".join(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 2000)),
    "deep": "a: " + "[" * 100_000,
    "sixty": "a: !!int 1" + ":59" * 300_000,
    "overflow": "a: !!float 1" + ":59" * 300 + ".5",
    "hexadecimal": "a: 0x" + "f" * 10_000,
    "no number": 'a: !!int ""',
    "no truth": "a: !!bool x",
    "no time": "a: !!timestamp x",
    "no day": "a: !!timestamp 2020-99-99",
    "twice": "a: 1\na: 2",
    "text": "a: '" + "x" * (2 << 20) + "'",
}


@pytest.mark.parametrize("name", BAD)
def test_what_grows_or_means_nothing_is_refused_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BAD[name])
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if name != "text":
        with pytest.raises(UserError):
            Content(BAD[name], "sweep.yaml")
    assert main(["search", "--config", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert time.process_time() - started < 10


def test_lines_are_named() -> None:
    with pytest.raises(UserError, match="^file:3: b is given twice"):
        parse_yaml("a: 1\nb: 2\nb: 3\n", "file")


@pytest.mark.parametrize("text", ["[" * 3000, "a: 1\nb: " + '{"a":' * 300, "[a, " * 10**5])
def test_many_open_brackets_are_refused_before_the_slow_parser(text, monkeypatch):
    monkeypatch.setattr("yaml.compose", None)
    with pytest.raises(UserError, match=r"x:\d: nested too deeply"):
        parse_yaml(text, "x")


def test_closed_brackets_do_not_add_up():
    assert parse_yaml("[" + "[a], {b: c}, " * 1000 + "d]", "x")[-1] == "d"
    assert parse_yaml("a: x]]]]]] text\n", "x") == {"a": "x]]]]]] text"}
