"""A finished run that is asked for more epochs goes on as if it had been asked for them at first, or says why not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.runs.run_folder import RunFolder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402

FREE = ["--objective=cross_entropy", "--checkpoint_minutes=0"]  # nothing in it follows the number of epochs
RUNS = {
    "search": [*harness.BILEVEL, *FREE, "--strategy_config.temperature=0", "--strategy_config.settled=0"],
    "retrain": [*harness.RETRAIN, *FREE, "--recipe=adam"],
}


def records(run: Path) -> list[dict[str, Any]]:
    """A history without the warnings of its monitors."""
    history = RunFolder.open(run).read_history()
    return [{**record, "monitors": {**record["monitors"], "warnings": None}} for record in history]


@pytest.mark.parametrize("name", RUNS)
def test_more_epochs_later_are_as_good_as_at_first(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, whole = RUNS[name], tmp_path / "out", tmp_path / "whole"
    assert main([*run, "--epochs=3", f"--out={whole}"]) == 0
    assert main([*run, "--epochs=2", f"--out={out}"]) == 0
    part = out / "split-0" if name == "retrain" else out
    (part / "metrics-mls.json").write_text("{}")  # of the network as it was after two epochs
    assert main([*run, "--epochs=3", f"--out={out}", "--resume=auto"]) == 0
    assert "goes on to 3 epochs; what was found after 2 is replaced" in caplog.text
    found = harness.differences(whole, out)
    if name == "search":  # its epoch 2 was the last for a while, and has what is said of a last one
        assert {"history.jsonl: other bytes"} <= set(found) and records(whole) == records(out)
        assert set(found) <= {"history.jsonl: other bytes", "checkpoint.pt: /best/monitors/warnings"}
    else:
        assert found == []
    assert not (part / "metrics-mls.json").exists()
    assert RunFolder.open(out).finished and RunFolder.open(part).read_config()["epochs"] == 3
    capsys.readouterr()
    assert main([*run, "--epochs=2", f"--out={out}", "--resume=auto"]) == 2
    assert "epochs was 3 at the start and is 2 now" in capsys.readouterr().err


def test_a_crash_while_it_is_let_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out, whole = RUNS["retrain"], tmp_path / "out", tmp_path / "whole"
    assert main([*run, "--epochs=2", f"--out={whole}"]) == 0
    assert main([*run, "--epochs=1", f"--out={out}"]) == 0
    original = RunFolder.write_yaml

    class Killed(BaseException):
        pass

    def kill(self: RunFolder, name: str, value: Any) -> None:
        raise Killed

    # before the retraining's config.yaml is written, and then before that of its part
    monkeypatch.setattr(RunFolder, "write_yaml", kill)
    with pytest.raises(Killed):
        main([*run, "--epochs=2", f"--out={out}", "--resume=auto"])
    calls = iter([original])
    monkeypatch.setattr(RunFolder, "write_yaml", lambda *given: next(calls, kill)(*given))
    with pytest.raises(Killed):
        main([*run, "--epochs=2", f"--out={out}", "--resume=auto"])
    monkeypatch.undo()
    assert main([*run, "--epochs=2", f"--out={out}", "--resume=auto"]) == 0
    assert harness.differences(whole, out) == []


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ([*RUNS["retrain"], "--recipe=fast"], "the triangle schedule of its recipe follows the number of epochs"),
        ([*RUNS["retrain"], "--recipe=cac"], "the two_stage schedule of its recipe follows the number of epochs"),
        ([*RUNS["retrain"], "--objective=vae_contrastive"], "coefficients of objective vae_contrastive follow"),
        ([*harness.SCENARIOS["search-random"], *FREE], "its strategy takes the number of epochs for each architecture"),
    ],
)
def test_what_follows_the_number_of_epochs_says_so(
    run: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*run, "--epochs=1", f"--out={out}"]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    capsys.readouterr()
    assert main([*run, "--epochs=2", f"--out={out}", "--resume=auto"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot go on from 1 to 2 epochs" in error and reason in error
    assert before == {path: path.read_bytes() for path in out.rglob("*.json")}


def test_a_schedule_over_all_epochs_is_not_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*harness.BILEVEL, *FREE, "--strategy_config.temperature=0.5", f"--out={tmp_path / 'run'}"]
    assert main([*run, "--epochs=2"]) == 0
    assert main([*run, "--epochs=3", "--resume=auto"]) == 2
    assert "the temperature of alphas and betas follows the number of epochs" in capsys.readouterr().err
