"""`nas-osr sweep` as a user meets it: the shipped files, and a sweep on digits from a typo to its table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas_osr.cli.main import main
from nas_osr.cli.sweep import check_sweep, flatten, option_names
from nas_osr.search_spaces.architectures.references import published
from nas_osr.sweeps.sweep_file import read_sweep, shipped

ROOT = Path(__file__).resolve().parents[3]

PLAN = """\
about: two small networks
common:
  protocol: digits
  preset: tiny
  limit_per_class: 20
  batch_size: 32
  device: cpu
  threads: 1
  bootstrap: 0
runs:
  - name: "smoothing-{smoothing}"
    command: retrain
    grid: {smoothing: [0, 0.1]}
    options:
      architecture: random:0
      objective: cross_entropy
      objective_config.label_smoothing: "{smoothing}"
      epochs: 1
"""
PICTURE = """\
  - name: picture
    command: export
    options: {architecture: "FILE", format: gv}
"""
EVALUATION = """\
  - name: "smoothing-{smoothing}-{rule}"
    command: evaluate
    needs: "smoothing-{smoothing}"
    grid: {smoothing: [0], rule: [msp]}
    options: {run: "{out}/smoothing-{smoothing}", rule: "{rule}"}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["sweep", *arguments])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("name", shipped())
def test_every_run_of_every_shipped_file_is_accepted(name: str) -> None:
    plan = read_sweep(name, option_names)
    check_sweep(plan)
    assert len(plan.runs) > 1
    assert plan.about.endswith(".")


def test_the_shipped_files_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert set(listed) == {path.stem for path in (ROOT / "nas_osr" / "sweeps").glob("*.yaml")}
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == list(listed)
    assert all(item["about"] in out for item in listed.values())


def test_dotted_options_are_flattened() -> None:
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_a_sweep_whose_folder_may_be_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.yaml").write_text("about: x\nruns:\n  - {name: a, command: rules, options: {}}\n")
    for before in ("", " (1 before)"):
        code, out, err = run(capsys, str(tmp_path / "plan.yaml"), "--backend=shared", f"--out={tmp_path / 'out'}")
        assert code == 0 and out == f"1 run: 1 finished{before}; everything in {tmp_path / 'out'}\n"
        assert ("[1/1] a: started, output in" in err) == (not before)
    assert "mahalanobis" in (tmp_path / "out" / "a.log").read_text()


def test_a_sweep_from_its_typos_to_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"

    def sweep(text: str, *more: str) -> tuple[int, str, str]:
        file.write_text(text)
        return run(capsys, str(file), "--out", str(out), *more)

    for wrong, place, message in (
        (PLAN.replace("batch_size", "batchsize"), ":6: ", "no command of this sweep has an option batchsize"),
        (
            PLAN.replace("epochs: 1", "epoch: 1"),
            ":11: run smoothing-0: ",
            "there is no option epoch; did you mean epochs?",
        ),
        (PLAN.replace("label_smoothing:", "smoothing:"), ":11: run smoothing-0: ", "no setting 'smoothing'"),
        (PLAN.replace("[0, 0.1]", "[0, 1.1]"), ":11: run smoothing-1.1: ", "label_smoothing must lie in [0, 1), got"),
        (PLAN + EVALUATION.replace("msp", "cap"), ":19: run smoothing-0-cap: ", "rule 'cap' needs"),
        (PLAN + EVALUATION.replace('rule: "', 'unknown: "'), ":19: run smoothing-0-msp: ", "unknown source 'msp'"),
    ):
        code, printed, err = sweep(wrong)
        assert (code, printed) == (2, "")
        assert place in err
        assert message in err
        assert not out.exists()

    code, printed, _ = sweep(PLAN, "--dry_run", "--set.epochs", "7", "--set.objective_config.center_weight", "0.5")
    assert code == 0
    assert printed.count("--epochs=7") == printed.count("--objective_config.center_weight=0.5") == 2
    assert not out.exists()

    # a run that fails, for want of a file
    plan = PLAN + PICTURE.replace("FILE", str(tmp_path / "architecture.json"))
    code, printed, err = sweep(plan, "--jobs", "2")
    assert code == 1
    assert "picture: failed: nas-osr: error: " in printed
    assert "no such architecture" in printed
    assert "3 runs: 2 finished, 1 failed" in printed
    assert "[1/3] smoothing-0: started" in err

    # the same command goes on, and finished runs are left alone
    published().save(tmp_path / "architecture.json")
    logs = [out / f"smoothing-{smoothing}.log" for smoothing in ("0", "0.1")]
    before = [log.read_bytes() for log in logs]
    code, printed, err = sweep(plan, "--quiet")
    assert (code, err) == (0, "")
    assert [log.read_bytes() for log in logs] == before
    assert "3 runs: 3 finished (2 before)" in printed
    assert (out / "picture" / "architecture.gv").exists()
    metrics = json.loads((out / "smoothing-0.1" / "split-0" / "metrics.json").read_text())["metrics"]
    rows = [line for line in printed.splitlines() if line.startswith("cross_entropy, mls, random seed 0")]
    assert len(rows) == 2
    assert f" {100 * metrics['auroc']:.1f} " in rows[1]

    code, _, err = sweep(PLAN.replace("[0, 0.1]", "[0, 0.10001, 0.1]").replace("epochs: 1", "epochs: 2"))
    assert code == 2
    assert "run smoothing-0 has finished with other options: epochs was 1 and is 2 now" in err

    code, printed, _ = sweep(PLAN, "--only", "*-0", "--json")
    result = json.loads(printed)
    assert code == 0
    assert result["runs"] == {"smoothing-0": {"status": "finished", "error": ""}}
    assert len(result["compare"]) == 2


def test_only_what_runs_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN + EVALUATION.replace("[msp]", "[cap]"))
    out = ["--out", str(tmp_path / "out"), "--dry_run"]
    code, _, err = run(capsys, str(file), *out)
    assert code == 2 and "cap" in err
    code, printed, err = run(capsys, str(file), *out, "--only", "smoothing-0")
    assert (code, err) == (0, "")
    assert len(printed.splitlines()) == 1 and "/smoothing-0" in printed


def test_only_what_runs_must_be_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(PLAN)
    (out / "smoothing-0.1").mkdir(parents=True)
    (out / "smoothing-0.1" / "provenance.json").write_text(json.dumps({"program": "nas-osr", "finished": "now"}))
    record = {"command": "retrain", "options": {"epochs": 3}, "status": "finished"}
    (out / "sweep.json").write_text(json.dumps({"program": "nas-osr", "runs": {"smoothing-0.1": record}}))
    asked = [str(file), "--out", str(out), "--dry_run"]
    code, _, err = run(capsys, *asked)
    assert code == 2 and "run smoothing-0.1 has finished with other options" in err
    assert run(capsys, *asked, "--only", "smoothing-0")[0] == 0


@pytest.mark.slow
def test_an_evaluation_comes_after_its_retraining_and_into_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(PLAN + EVALUATION)
    code, printed, _ = run(capsys, str(file), "--out", str(out), "--only", "*-msp", "--quiet")
    assert code == 0
    metrics = json.loads((out / "smoothing-0" / "split-0" / "metrics-msp.json").read_text())["metrics"]
    [row] = [line for line in printed.splitlines() if line.startswith("cross_entropy, msp")]
    assert f" {100 * metrics['auroc']:.1f} " in row
    assert "2 runs: 2 finished;" in printed


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(PLAN.replace("epochs: 1", "epochs: 100000"))
    command = [sys.executable, "-m", "nas_osr", "sweep", str(file), "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        checkpoint = out / "smoothing-0" / "split-0" / "checkpoint.pt"
        deadline = time.monotonic() + 600
        while not checkpoint.exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == f"nas-osr: terminated; go on with: nas-osr sweep {file} --out {out}"
    assert "resume with: " in (out / "smoothing-0.log").read_text().splitlines()[-1]
    assert checkpoint.exists()
    assert json.loads((out / "sweep.json").read_text())["runs"]["smoothing-0"]["status"] == "interrupted"
