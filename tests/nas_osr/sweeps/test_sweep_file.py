"""Sweep files: expansion, and mistakes with their lines."""

from __future__ import annotations

import json
import textwrap
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.sweeps.sweep_file import Sweep, fill, read_sweep, shipped
from nas_osr.sweeps.sweep_folder import list_arguments

OPTIONS = {
    "train": {"out", "resume", "alpha", "known", "epochs"},
    "test": {"run", "rule"},
}


def option_names(command: str) -> set[str]:
    if command not in OPTIONS:
        raise UserError(f"command {command!r} is none")
    return OPTIONS[command]


def read(folder: Path, text: str, **overrides: Any) -> Sweep:
    file = folder / "plan.yaml"
    file.write_text(textwrap.dedent(text))
    return read_sweep(str(file), option_names, overrides)


FULL = """\
    about: a plan
    common: {epochs: 3}
    runs:
      - name: "test-{alpha}-{case.name}"
        command: test
        needs: "train-{alpha}-{case.name}"
        grid: {alpha: [1, 0.5], case: &cases [{name: a, known: [0, [1, 2]]}, {name: b, known: null}]}
        options: {run: "{out}/train-{alpha}-{case.name}", rule: mls}
      - name: "train-{alpha}-{case.name}"
        command: train
        grid: {alpha: [1, 0.5], case: *cases}
        options: {alpha: "{alpha}", known: "{case.known}"}
"""


def test_a_file_is_expanded_in_order_with_types_kept(tmp_path: Path) -> None:
    plan = read(tmp_path, FULL)
    points = ["1-a", "1-b", "0.5-a", "0.5-b"]
    assert [run.name for run in plan.runs] == [f"{kind}-{point}" for point in points for kind in ("train", "test")]
    runs = {run.name: run for run in plan.runs}
    assert runs["train-0.5-a"].options == {"epochs": 3, "alpha": 0.5, "known": ["0", ["1", "2"]]}
    assert runs["train-1-b"].options == {"epochs": 3, "alpha": 1, "known": None}
    assert type(runs["train-1-b"].options["alpha"]) is int
    assert runs["test-1-a"].options == {"run": "{out}/train-1-a", "rule": "mls"}  # no epochs: test has no such option
    assert runs["test-1-a"].needs == ("train-1-a",)
    assert list_arguments(runs["train-0.5-a"].options, "x") == [
        "--epochs=3",
        "--alpha=0.5",
        '--known=["0", ["1", "2"]]',
    ]
    assert list_arguments(runs["test-1-a"].options, 'q"x') == ['--run=q"x/train-1-a', "--rule=mls"]


def test_overrides_win_in_the_runs_that_know_them(tmp_path: Path) -> None:
    plan = read(tmp_path, FULL, epochs=1, rule="msp")
    assert {json.dumps(run.options.get("epochs")) for run in plan.runs if run.command == "train"} == {"1"}
    assert {run.options["rule"] for run in plan.runs if run.command == "test"} == {"msp"}
    with pytest.raises(UserError, match=r"--set.speed: no command of this sweep has that option"):
        read(tmp_path, FULL, speed=3)


@settings(max_examples=20)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True)),
)
def test_a_grid_is_the_cartesian_product(tmp_path_factory: pytest.TempPathFactory, grid: dict[str, list[int]]) -> None:
    file = tmp_path_factory.getbasetemp() / "grid.yaml"
    name = "-".join(["run", *(f"{{{key}}}" for key in grid)])
    entry = {"name": name, "command": "train", "grid": grid, "options": {"known": [f"{{{key}}}" for key in grid]}}
    file.write_text(json.dumps({"about": "x", "runs": [entry]}))  # JSON is YAML
    expected = [list(values) for values in product(*grid.values())]
    assert [run.options["known"] for run in read_sweep(str(file), option_names).runs] == expected


@given(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text()))
def test_only_a_placeholder_alone_keeps_the_type(around: str, value: Any) -> None:
    assert fill("{a}", {"a": value}, "here") is value
    filled = fill([around.replace("{", "") + ":{a}"], {"a": value}, "here")
    assert filled == [around.replace("{", "") + ":" + str(value)]


MISTAKES = {
    "no mapping": ("[1]", "1: expected a mapping"),
    "unknown top key": ("about: x\nrun: []\nruns: []", "2: unknown key run; did you mean runs?"),
    "no about": ("runs: []", "1: about is missing"),
    "no runs": ("about: x\nruns: []", "2: runs must be a list"),
    "key twice": ("about: x\nruns:\n- {name: a, command: train,\n   name: b}", "4: name is given twice"),
    "unknown key": ("about: x\nruns:\n- name: a\n  comand: train", "4: unknown key comand; did you mean command?"),
    "unknown command": ("about: x\nruns:\n- name: a\n  command: fly", "4: command 'fly' is none"),
    "name twice": ("about: x\nruns:\n- &a {name: a, command: train}\n- *a", "there is a run 'a' already"),
    "bad name": ("about: x\nruns:\n- name: ../a\n  command: train", "3: '../a' cannot name a folder"),
    "name of a log": ("about: x\nruns:\n- {name: a.log, command: train}", "3: 'a.log' cannot name a folder"),
    "placeholder": ("about: x\nruns:\n- name: a\n  command: train\n  options:\n    alpha: '{b}'", "6: {b} is not in"),
    "placeholder key": (
        "about: x\nruns:\n- name: '{b.c}'\n  command: train\n  grid: {b: [{d: 1}]}", "3: {b.c} is not in the grid"
    ),
    "grid": ("about: x\nruns:\n- name: a\n  command: train\n  grid:\n    b: 3", "6: b must be a list"),
    "reserved": ("about: x\nruns:\n- name: a\n  command: train\n  options:\n    out: b", "6: out is not for a sweep"),
    "unused common": ("about: x\ncommon:\n  epoch: 1\nruns:\n- {name: a, command: train}", "3: no command of this"),
    "unknown need": (
        "about: x\nruns:\n- {name: train-a, command: train}\n- {name: b, command: test, needs: trian-a}",
        "4: run b needs 'trian-a', which is not a run of this sweep; did you mean train-a?",
    ),
    "needs missing": (
        "about: x\nruns:\n- {name: a, command: train}\n- {name: b, command: test, options: {run: '{out}/a'}}",
        "4: run b uses {out}/a: say `needs: a` as well",
    ),
    "circle": (
        "about: x\nruns:\n- {name: a, command: train, needs: b}\n- {name: b, command: train, needs: a}",
        "runs need each other",
    ),
    "not YAML": ("about: [", "not valid YAML"),
    "a date": ("about: !!timestamp 2020-01-01\nruns: []", "is not a JSON value"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line_with_their_place(mistake: str, tmp_path: Path) -> None:
    text, message = MISTAKES[mistake]
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_sweep(str(tmp_path / "plan.yaml"), option_names)
    assert str(error.value).startswith(f"{tmp_path / 'plan.yaml'}:")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UserError, match="did you mean cac-ablation?"):
        read_sweep("cac-ablatio", option_names)
    assert "cac-ablation" in shipped()


def test_long_chains_of_needs_are_put_in_order(tmp_path: Path) -> None:
    lines = [f"- {{name: r{n}, command: train, needs: r{n + 1}}}" for n in range(3000)]
    plan = read(tmp_path, "\n".join(["about: x", "runs:", *lines, "- {name: r3000, command: train}"]))
    assert [run.name for run in plan.runs] == [f"r{n}" for n in range(3000, -1, -1)]


def test_placeholders_do_not_make_a_short_file_a_long_text(tmp_path: Path) -> None:
    entry = f"name: a, command: train, grid: {{a: [{'x' * 5000}]}}, options: {{alpha: '{'{a}' * 5000}'}}"
    text = f"about: x\nruns:\n- {{{entry}}}"
    with pytest.raises(UserError, match="more than 10000 characters with its placeholders filled in"):
        read(tmp_path, text)
