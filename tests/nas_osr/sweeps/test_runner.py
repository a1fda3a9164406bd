"""Sweep files: expansion, mistakes with their lines; and the runner, with a small program in the place of nas-osr."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import textwrap
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.sweeps.file import Run, Sweep, fill, read_sweep, shipped
from nas_osr.sweeps.runner import SweepFolder, child_environment, list_arguments, run_sweep

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
    assert runs["train-0.5-a"].options == {"epochs": 3, "alpha": 0.5, "known": [0, [1, 2]]}
    assert runs["train-1-b"].options == {"epochs": 3, "alpha": 1, "known": None}
    assert type(runs["train-1-b"].options["alpha"]) is int
    assert runs["test-1-a"].options == {"run": "{out}/train-1-a", "rule": "mls"}  # no epochs: test has no such option
    assert runs["test-1-a"].needs == ("train-1-a",)
    assert list_arguments(runs["train-0.5-a"].options, "x") == ["--epochs=3", "--alpha=0.5", "--known=[0, [1, 2]]"]
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


# The runner ---------------------------------------------------------------------------------------------------------

# Stands for `python -m nas_osr`. Its command says what it does; it notes the times at which it begins and ends.
PROGRAM = """\
#!{python}
import json, os, signal, sys, time
from pathlib import Path
options = dict(part[2:].split("=", 1) for part in sys.argv[3:] if part.startswith("--"))
out = Path(options.get("out", "."))
notes = open(options.get("known"), "a")
print("begin", out.name, os.environ.get("OMP_NUM_THREADS"), file=notes, flush=True)
def finish():
    out.mkdir(exist_ok=True)
    (out / "provenance.json").write_text(json.dumps({{"program": "nas-osr", "finished": "now"}}))
if options.get("alpha") == "fail":
    print("something on the way", file=sys.stderr); print("the reason", file=sys.stderr); print(); sys.exit(3)
if options.get("alpha") == "interrupt":
    try:
        os.kill(os.getppid(), signal.SIGINT); time.sleep(60)
    except KeyboardInterrupt:
        (out.parent / "saved").touch(); sys.exit(130)
time.sleep(float(options.get("epochs", 0)))
if "out" in options:
    finish()
print("end", out.name, file=notes, flush=True)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program notes what it did; sys.executable is that program."""
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "notes").touch()
    return tmp_path / "notes"


def plan(notes: Path, *runs: tuple[str, dict[str, Any], tuple[str, ...]], command: str = "train") -> Sweep:
    return Sweep(
        "plan",
        "x",
        tuple(Run(name, command, {"known": str(notes), **options}, needs, "p:1") for name, options, needs in runs),
    )


def go(sweep: Sweep, notes: Path, **settings: Any) -> dict[str, str]:
    with SweepFolder(notes.parent / "out", lambda command: OPTIONS["train"] | OPTIONS["test"]) as folder:
        folder.check_unchanged(sweep.runs)
        return {name: outcome.status for name, outcome in run_sweep(sweep, folder, **settings).items()}


def begun(notes: Path) -> list[str]:
    return re.findall(r"^begin (\S+)", notes.read_text(), flags=re.MULTILINE)


def test_failures_do_not_stop_the_others_and_finished_runs_are_skipped(notes: Path) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {"alpha": "fail"}, ()), ("c", {}, ("b",)), ("d", {}, ("a",)))
    expected = {"a": "finished", "b": "failed", "c": "blocked", "d": "finished"}
    assert go(sweep, notes) == expected
    assert begun(notes) == ["a", "b", "d"]
    assert go(sweep, notes) == expected
    assert begun(notes) == ["a", "b", "d", "b"]
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert state["b"]["error"] == "the reason"
    assert state["b"]["status"] == "failed"
    repaired = plan(notes, ("a", {}, ()), ("b", {}, ()), ("c", {}, ("b",)), ("d", {}, ("a",)))
    assert set(go(repaired, notes).values()) == {"finished"}
    assert begun(notes)[4:] == ["b", "c"]
    log = (notes.parent / "out" / "b.log").read_text()
    assert log.count("$ nas-osr train") == 3


def test_only_some_and_what_they_need(notes: Path) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {}, ("a",)), ("c", {}, ("b",)), ("d", {}, ()))
    assert go(sweep, notes, only={"b"}) == {"a": "finished", "b": "finished"}


def test_jobs_run_together_and_share_the_cores(notes: Path) -> None:
    sweep = plan(notes, *((name, {"epochs": 0.5}, ()) for name in "abc"))
    assert set(go(sweep, notes, jobs=2).values()) == {"finished"}
    events = notes.read_text().splitlines()
    assert [event.split()[0] for event in events[:3]] == ["begin", "begin", "end"]
    running = most = 0
    for event in events:
        running += 1 if event.startswith("begin") else -1
        most = max(most, running)
    assert most == 2
    threads = child_environment(2)["OMP_NUM_THREADS"]
    assert {event.split()[2] for event in events if event.startswith("begin")} == {threads}


def test_cores_are_shared_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_osr.runs.provenance.machine", lambda: {"cores": 8})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert child_environment(3)["OMP_NUM_THREADS"] == "2"
    assert child_environment(9)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in child_environment(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert child_environment(3)["OMP_NUM_THREADS"] == "5"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is felt, as it is not in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_lets_the_runs_save(notes: Path, interruptible: None) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {"alpha": "interrupt"}, ()), ("c", {}, ()))
    with pytest.raises(KeyboardInterrupt):
        go(sweep, notes)
    assert (notes.parent / "out" / "saved").exists()
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert {name: record["status"] for name, record in state.items()} == {"a": "finished", "b": "interrupted"}


def test_a_command_without_a_run_folder_is_done_once_and_again_when_its_run_is(notes: Path) -> None:
    options: dict[str, Any] = {"run": "{out}/a"}
    trained = Run("a", "train", {"known": str(notes)}, (), "p:1")
    tested = Run("b", "test", {"known": str(notes), **options}, ("a",), "p:2")
    both = Sweep("plan", "x", (trained, tested))

    def names(command: str) -> set[str]:
        return OPTIONS[command]

    def sweep() -> list[str]:
        before = len(notes.read_text().splitlines())
        with SweepFolder(notes.parent / "out", names) as folder:
            run_sweep(both, folder)
        return notes.read_text().splitlines()[before::2]

    assert len(sweep()) == 2
    assert sweep() == []
    (notes.parent / "out" / "a" / "provenance.json").unlink()
    assert len(sweep()) == 2


def test_changed_options_of_a_run_that_is_there_are_refused(notes: Path) -> None:
    go(plan(notes, ("a", {"epochs": 0}, ()), ("b", {}, ())), notes)
    with pytest.raises(UserError, match=r"run a has finished with other options: epochs was 0 and is 0.1 now"):
        go(plan(notes, ("a", {"epochs": 0.1}, ()), ("b", {}, ())), notes)
    assert go(plan(notes, ("b", {}, ()), ("c", {}, ()), ("a", {"epochs": 0}, ())), notes) == {
        "b": "finished", "c": "finished", "a": "finished",
    }  # fmt: skip
    assert begun(notes) == ["a", "b", "c"]


def test_a_folder_of_something_else_or_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not the folder of a sweep"):
        SweepFolder(tmp_path / "other", option_names)
    other = SweepFolder(tmp_path / "mine", option_names)
    with SweepFolder(tmp_path / "mine", option_names), pytest.raises(UserError, match="in use"):
        other.__enter__()
    with SweepFolder(tmp_path / "mine", option_names):
        pass
    (tmp_path / "mine" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="not the state of a sweep"):
        SweepFolder(tmp_path / "mine", option_names)
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]


def test_long_chains_of_needs_are_put_in_order(tmp_path: Path) -> None:
    lines = [f"- {{name: r{n}, command: train, needs: r{n + 1}}}" for n in range(3000)]
    plan = read(tmp_path, "\n".join(["about: x", "runs:", *lines, "- {name: r3000, command: train}"]))
    assert [run.name for run in plan.runs] == [f"r{n}" for n in range(3000, -1, -1)]


def test_placeholders_do_not_make_a_short_file_a_long_text(tmp_path: Path) -> None:
    entry = f"name: a, command: train, grid: {{a: [{'x' * 5000}]}}, options: {{alpha: '{'{a}' * 5000}'}}"
    text = f"about: x\nruns:\n- {{{entry}}}"
    with pytest.raises(UserError, match="more than 10000 characters with its placeholders filled in"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "record", [1, None, {}, {"command": "train"}, {"command": 1, "options": {}, "status": "finished"}]
)
def test_a_broken_state_is_told(record: Any, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"program": "nas-osr", "runs": {"a": record}}))
    with pytest.raises(UserError, match="sweep.json: not the state of a sweep"):
        SweepFolder(tmp_path, option_names)
