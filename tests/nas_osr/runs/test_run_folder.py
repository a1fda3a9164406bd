"""The run folder: what may be made, replaced, resumed; what it holds; who may use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nas_osr.errors import UserError
from nas_osr.runs import run_folder as runs
from nas_osr.runs.run_folder import RunFolder

COMMAND = ["nas-osr", "search", "--out", "RUN dir", "--resume", "no", "--overwrite"]
CONFIG = {"protocol": "digits", "rates": (0.1, 5e-5), "objective_config": {"temperature": 6.0}, "data_dir": None}


def begin(path: Path, **how: bool) -> RunFolder:
    run = RunFolder.create(path, **how)
    run.provenance(COMMAND, CONFIG, 3, "abc")
    return run


def names(path: Path) -> set[str]:
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


def test_a_whole_run(tmp_path):
    path = tmp_path / "new" / "run"
    with begin(path) as run:
        assert not run.resumed
        assert not run.finished
        run.append_history({"epoch": 0, "losses": {"kl": 0.5}})
        run.append_timing({"seconds": 2.0})
        run.write_json("metrics.json", {"auroc": 0.9, "curve": [1, None]})
        run.finish()
        assert run.finished
    assert names(path) == {
        ".lock",
        "config.yaml",
        "provenance.json",
        "history.jsonl",
        "timing.jsonl",
        "metrics.json",
    }
    again = RunFolder.open(path)
    assert again.read_history() == [{"epoch": 0, "losses": {"kl": 0.5}}]
    assert again.read_json("metrics.json") == {"auroc": 0.9, "curve": [1, None]}
    assert again.read_config() == yaml.safe_load((path / "config.yaml").read_text())
    assert again.read_config() == {**CONFIG, "rates": [0.1, 5e-5]}
    record = again.read_provenance()
    assert record["command"] == COMMAND
    assert (record["seed"], record["data_fingerprint"]) == (3, "abc")
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["numpy"] == __import__("numpy").__version__
    assert record["machine"]["cores"] >= 1
    assert record["started"] <= record["finished"]


def test_equal_runs_have_equal_bytes_but_for_provenance_and_timing(tmp_path):
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        with begin(tmp_path / name) as run:
            run.append_history({"b": 1, "a": {"z": 0.1, "y": 2}})
            run.append_timing({"seconds": seconds})
            run.write_json("metrics.json", {"b": 1, "a": 2})
    for name in ("history.jsonl", "config.yaml", "metrics.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert list(json.loads((tmp_path / "a" / "metrics.json").read_text())) == ["a", "b"]


def test_a_moved_folder_still_opens(tmp_path):
    begin(tmp_path / "old").close()
    (tmp_path / "old").rename(tmp_path / "new")
    assert RunFolder.open(tmp_path / "new").read_config()["protocol"] == "digits"


def test_a_finished_run_is_refused_unless_overwritten(tmp_path):
    with begin(tmp_path / "run") as run:
        run.append_history({"epoch": 0})
        run.write_json("summary.json", {})
        run.finish()
    with begin(tmp_path / "run" / "split-0") as inner:
        inner.append_history({"epoch": 0})
    (tmp_path / "run" / "split-0" / "mine.csv").write_text("x")
    (tmp_path / "run" / "split-1").mkdir()
    (tmp_path / "run" / "split-1" / "config.yaml").write_text("mine: too")
    (tmp_path / "run" / "notes.md").write_text("mine")
    before = names(tmp_path)
    with pytest.raises(UserError, match="finished run.*--overwrite"):
        RunFolder.create(tmp_path / "run")
    assert names(tmp_path) == before

    with RunFolder.create(tmp_path / "run", overwrite=True) as run:
        assert names(tmp_path) == before  # nothing goes before the new run begins
        run.provenance(COMMAND, CONFIG)
        assert not run.finished
    left = {".lock", "config.yaml", "provenance.json", "notes.md", "split-0", "split-0/mine.csv"}
    assert names(tmp_path / "run") == left | {"split-1", "split-1/config.yaml"}


def test_a_run_killed_while_it_cleared_the_old_one_starts_afresh(tmp_path, monkeypatch):
    with begin(tmp_path) as run:
        run.append_history({"epoch": 0})
        run.finish()
    monkeypatch.setattr(runs, "clear_run_folder", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path, overwrite=True) as run:
        run.provenance(COMMAND, CONFIG)
    monkeypatch.undo()
    assert not RunFolder.open(tmp_path).finished
    with begin(tmp_path, resume=True) as run:
        assert not run.resumed
        assert run.read_history() == []


def test_a_run_killed_before_it_began_does_not_block_its_folder(tmp_path):
    for left in (".lock", "config.yaml", ".checkpoint.pt.123.tmp"):
        (tmp_path / left).touch()
    with begin(tmp_path) as run:
        assert names(tmp_path) == {".lock", "config.yaml", "provenance.json"}
        assert run.read_config()["protocol"] == "digits"


def test_an_unfinished_run_is_resumed_only_on_request(tmp_path):
    begin(tmp_path).close()
    (tmp_path / ".model.pt.1.tmp").touch()
    with pytest.raises(UserError, match="unfinished run.*--resume auto"):
        RunFolder.create(tmp_path)
    with begin(tmp_path, resume=True) as run:
        assert run.resumed
        assert len(run.read_provenance()["resumed"]) == 1
        assert not (tmp_path / ".model.pt.1.tmp").exists()


def test_resume_starts_a_run_that_is_not_there_and_leaves_a_finished_one(tmp_path):
    with begin(tmp_path / "run", resume=True) as run:
        assert not run.resumed
        run.finish()
    with RunFolder.create(tmp_path / "run", resume=True) as run:
        assert run.finished
        assert not run.resumed
    with pytest.raises(UserError, match="exclude each other"):
        RunFolder.create(tmp_path / "run", resume=True, overwrite=True)


def test_resume_refuses_another_configuration_and_other_data(tmp_path):
    begin(tmp_path).close()
    with RunFolder.create(tmp_path, resume=True) as run:
        with pytest.raises(UserError, match=r"objective_config\.temperature was 6\.0 .* 7\.0 now"):
            run.provenance(COMMAND, {**CONFIG, "objective_config": {"temperature": 7.0}}, 3, "abc")
        with pytest.raises(UserError, match="training images have changed"):
            run.provenance(COMMAND, CONFIG, 3, "other")
        run.provenance(COMMAND, {**CONFIG, "data_dir": "elsewhere"}, 3, "abc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: (path / "photo.jpg").touch(), "not a run folder"),
        (lambda path: (path / "config.yaml").touch(), "not a run folder"),
        (lambda path: (path / "provenance.json").write_text('{"program": "other"}'), "not a run folder"),
        (lambda path: (path / "provenance.json").write_text("{"), "not valid JSON"),
        (lambda path: (path / "provenance.json").write_text("[]"), "JSON object"),
    ],
)
def test_a_foreign_folder_is_left_alone(tmp_path, make, message):
    make(tmp_path)
    before = names(tmp_path)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match=message):
            RunFolder.create(tmp_path, **how)
    assert names(tmp_path) == before


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot create"):
            RunFolder.create(path)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="run folder"):
            RunFolder.open(path)


def test_a_run_that_never_began_leaves_no_trace(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        with pytest.raises(UserError), RunFolder.create(path):
            raise UserError("bad data")
    assert names(tmp_path) == {"empty"}


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        run.provenance(["nas-osr"], {})
        run.append_history({"epoch": 0})
        run.append_history({"epoch": 1})
        path = run.path / "history.jsonl"
        path.write_bytes(path.read_bytes()[:-4])
        assert run.read_history() == [{"epoch": 0}]
        run.truncate_history(1)
        run.append_history({"epoch": 1})
        assert run.read_history() == [{"epoch": 0}, {"epoch": 1}]


def test_what_create_would_refuse_is_told_without_a_trace(tmp_path: Path) -> None:
    RunFolder.check(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    with RunFolder.create(tmp_path / "run") as run:
        run.provenance(["nas-osr"], {})
        run.finish()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    RunFolder.check(run.path, resume=True)
    RunFolder.check(run.path, overwrite=True)
    for folder, how, message in (
        (run.path, {}, "holds a finished run"),
        (run.path, {"resume": True, "overwrite": True}, "exclude each other"),
        (tmp_path, {"overwrite": True}, "not empty and not a run folder"),
    ):
        with pytest.raises(UserError, match=message):
            RunFolder.check(folder, **how)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_second_run_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path):
    code = (
        "import sys, time; from nas_osr.runs.run_folder import RunFolder; run = RunFolder.create(sys.argv[1]);"
        "run.provenance(['x'], {}); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        for how in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(UserError, match="in use"):
                RunFolder.create(tmp_path, **how)
        assert RunFolder.open(tmp_path).read_config() == {}
        first.send_signal(signal.SIGKILL)
        first.wait()
    with RunFolder.create(tmp_path, resume=True) as run:
        assert run.resumed


def test_the_lock_holds_within_one_process_and_ends_with_close(tmp_path):
    first = RunFolder.create(tmp_path / "run")
    with pytest.raises(UserError, match="in use"):
        RunFolder.create(tmp_path / "run")
    first.close()
    first.close()
    with RunFolder.create(tmp_path / "run"):
        pass


def test_only_known_names_can_be_written(tmp_path):
    with begin(tmp_path) as run:
        for name in ("notes.md", "../metrics.json", "split-0/metrics.json"):
            with pytest.raises(ValueError, match="RUN_FILES"):
                run.write_text(name, "")


def test_history_is_cut_to_the_checkpoint(tmp_path):
    with begin(tmp_path) as run:
        for epoch in range(5):
            run.append_history({"epoch": epoch})
            run.append_timing({"seconds": epoch})
        whole = (tmp_path / "history.jsonl").read_bytes()
        with open(tmp_path / "history.jsonl", "ab") as file:
            file.write(b'{"epoch": 5, "los')  # killed while writing
        assert len(run.read_history()) == 5
        run.truncate_history(3)
        assert run.read_history() == [{"epoch": epoch} for epoch in range(3)]
        assert len(run.read_timing()) == 3
        for epoch in (3, 4):
            run.append_history({"epoch": epoch})
        assert (tmp_path / "history.jsonl").read_bytes() == whole
        with pytest.raises(UserError, match="5 records, the checkpoint is of 6"):
            run.truncate_history(6)


def test_a_broken_history_line_is_named(tmp_path):
    with begin(tmp_path) as run:
        (tmp_path / "history.jsonl").write_text('{"epoch": 0}\nnonsense\n{"epoch": 2}\n')
        with pytest.raises(UserError, match="line 2"):
            run.read_history()


@pytest.mark.parametrize(
    "text", ["a: [", "- 1\n", "!!python/object/apply:os.getcwd []", "1: 2\n", "\x00", "a: &a [*a]\n*b"]
)
def test_a_broken_config_is_refused(tmp_path, text):
    with begin(tmp_path) as run:
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="config.yaml") as caught:
            run.read_config()
        assert "\n" not in str(caught.value)


def test_the_resume_command_replaces_older_wishes(tmp_path):
    with begin(tmp_path) as run:
        assert run.resume_command() == "nas-osr search --out 'RUN dir' --resume auto"
    with RunFolder.create(tmp_path, overwrite=True) as run:
        run.provenance(["nas_osr.search"], {})
        assert run.resume_command() == 'nas_osr.search(..., resume="auto")'


def test_an_interruption_tells_how_to_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="resume with: nas-osr search .* --resume auto"), begin(tmp_path):
        raise KeyboardInterrupt


def test_a_full_disk_leaves_the_old_file(tmp_path):
    with begin(tmp_path) as run:
        run.write_json("metrics.json", {"auroc": 1})
        code = (
            "import resource, signal, sys; from nas_osr.runs.run_folder import RunFolder\n"
            "from nas_osr.errors import UserError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))\n"
            "try: RunFolder.open(sys.argv[1]).write_text('metrics.json', 'x' * 1000)\n"
            "except UserError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert "cannot write: File too large" in done.stdout
        assert run.read_json("metrics.json") == {"auroc": 1}
        assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_folder_removed_mid_run_is_a_clear_error(tmp_path):
    with begin(tmp_path / "run") as run:
        for entry in (tmp_path / "run").iterdir():
            entry.unlink()
        (tmp_path / "run").rmdir()
        with pytest.raises(UserError, match="cannot write: No such file"):
            run.append_history({})


def test_parallel_writers_of_one_file_leave_one_whole_file(tmp_path):
    begin(tmp_path).close()
    code = (
        "import sys; from nas_osr.runs.run_folder import RunFolder; run = RunFolder.open(sys.argv[1])\n"
        "for turn in range(50): run.write_json('metrics.json', {'n': [int(sys.argv[2])] * 5000})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(index)]) for index in range(3)]
    started = time.monotonic()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "metrics.json").exists():
            assert len(set(RunFolder.open(tmp_path).read_json("metrics.json")["n"])) == 1
        assert time.monotonic() - started < 60
    assert [writer.returncode for writer in writers] == [0, 0, 0]


def test_provenance_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with begin(tmp_path) as run:
        assert run.read_provenance()["git_commit"] is None
