"""`nas-osr fit` and docs/how-to/first-model.md, on pictures that are made here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nas_osr
from nas_osr.cli.fit import describe_fit
from nas_osr.cli.main import main
from nas_osr.deploy import fit, fit_budget
from nas_osr.deploy.fit_budget import SearchChoice, TrainingChoice, choose_search, choose_training
from nas_osr.deploy.fit_record import read_choice, read_summary
from nas_osr.deploy.fit_request import FitRequest
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_plan import Part, plan_retrain
from nas_osr.runs.run_folder import RunFolder

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "first-model.md").read_text()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of 20 pictures, each a pattern of its own under noise, and six unknown ones; no work but a step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit_budget, "TIMED_SECONDS", 0.02)
    generator = np.random.default_rng(0)
    for name, count in (("ant", 20), ("bee", 20), ("cat", 20), ("unknown", 6)):
        pattern = generator.integers(0, 256, (4, 4, 3))
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            blocks = (pattern + generator.integers(-60, 60, pattern.shape)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))
            image.save(tmp_path / "photos" / name / f"{index}.jpg")
    return tmp_path / "photos"


def request(photos: Path, **options: Any) -> FitRequest:
    return FitRequest(
        **{"folder": str(photos), "threads": 1, "device": "cpu", "quiet": True, "out": "model", **options}
    )


def plan_part(asked: FitRequest) -> Part:
    return plan_retrain(fit_budget.training_request(asked, TrainingChoice(64, 32, 1, 0.0))).parts[0]


def timed(seconds: dict[int, float]) -> Callable[..., float]:
    """In place of `time_epoch`: seconds by the width of what is trained, and of a search by 0."""

    def answer(asked: FitRequest, part: Part, make: Any) -> float:
        if make.func is not fit_budget.retrain_cost:
            return seconds[0]
        return seconds[int(make.args[0][0].training.network.removeprefix("plain:width="))]

    return answer


@pytest.mark.slow
def test_the_page(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fit_budget, "MOST", 5)
    monkeypatch.setattr(fit_budget, "ENOUGH", 5)
    monkeypatch.setattr(fit_budget, "SEARCH_STEPS", 4)
    monkeypatch.setattr(fit_budget, "WIDTHS", (16,))
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    make, predict, evaluate = commands.splitlines()
    assert main([*shlex.split(make)[1:], "--search", "--threads", "1", "--device", "cpu"]) == 0
    said, chosen = capsys.readouterr(), json.loads(Path("insects/choice.json").read_text())
    assert "it knows ant, bee, cat; a search of" in said.out and "unknown ones it rejects" in said.out
    assert "next: nas-osr predict insects" in said.out
    assert chosen["training"]["epochs"] == 5 and chosen["training"]["channels"] == 16
    found = json.loads(Path("insects/fit-search/architecture.json").read_text())["branches"]
    assert json.loads(Path("insects/model/model.json").read_text())["architecture"]["branches"] == found
    assert main(shlex.split(predict)[1:]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main(shlex.split(evaluate)[1:]) == 0
    answers: dict[str, Any] = {"nas_osr": nas_osr}
    exec(code, answers)
    assert answers["result"]["search"] is None
    assert answers["result"]["test_images"]["unknown"] == 6


def test_what_is_killed_goes_on_with_what_was_chosen(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(photos, unknown=["cat"], minutes=5)
    monkeypatch.setattr(fit_budget, "MOST", 5)
    monkeypatch.setattr(fit_budget, "WIDTHS", (16,))
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(fit, "retrain_as_planned", die)
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit.run_fit(asked, ["nas-osr", "fit", str(photos)])
    assert stopped.value.args[0].endswith("--resume auto")
    with pytest.raises(UserError, match="holds an unfinished run"):
        fit.run_fit(asked, ["nas-osr", "fit"])
    monkeypatch.setattr(fit_budget, "MOST", 9)  # would be chosen now
    again = replace(asked, resume="auto")
    result = fit.run_fit(again, ["nas-osr", "fit"])
    assert result["training"]["epochs"] == 5 == len(RunFolder.open("model/fit-training/split-0").read_history())
    assert result["known"] == ["ant", "bee"] and result["test_images"]["unknown"] == 20
    assert set(nas_osr.load("model").classes_) == {"ant", "bee"}
    assert json.loads(Path("model/model/model.json").read_text())["network"] == "plain:width=16"
    before = Path("model/model/model.json").read_bytes()
    assert fit.run_fit(again, ["nas-osr", "fit"]) == {**result, "out": "model"}
    for name, broken, said in (
        ("choice.json", {"search": None, "training": None, "seconds": 1}, "not the choice of a fit"),
        ("choice.json", {"search": None, "training": {"epochs": 5}, "seconds": 1}, "training: channels is missing"),
        ("choice.json", {"search": {"x": 5}, "training": None, "seconds": 1}, "search has no setting 'x'"),
        ("summary.json", {**result, "metrics": 3}, "not the summary of a fit, by its metrics"),
        ("summary.json", {**result, "test_images": {}}, "not the summary of a fit, by its test_images"),
    ):
        file = Path("model", name)
        kept = file.read_bytes()
        file.write_text(json.dumps(broken))
        with pytest.raises(UserError, match=said):
            (read_choice if name == "choice.json" else read_summary)(RunFolder.open("model"))
        file.write_bytes(kept)
    with pytest.raises(UserError, match="cannot resume: accept was 0.95 at the start and is 0.5 now"):
        fit.run_fit(replace(again, accept=0.5), ["nas-osr", "fit"])
    assert fit.run_fit(replace(asked, overwrite=True), ["nas-osr", "fit"])["training"]["epochs"] == 9
    assert Path("model/model/model.json").read_bytes() != before


def test_without_unknown_pictures(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(photos / "unknown")
    monkeypatch.setattr(fit_budget, "MOST", 2)
    monkeypatch.setattr(fit_budget, "LEAST", 1)
    monkeypatch.setattr(fit_budget, "time_epoch", lambda *_: 1.0)
    result = fit.run_fit(request(photos, network="cac", accept=0.5, minutes=5), ["nas-osr", "fit"])
    assert result["training"]["channels"] == 0 and result["search"] is None
    assert result["metrics"]["auroc"] is None and result["test_images"]["unknown"] == 0
    described = json.loads(Path("model/model/model.json").read_text())
    assert described["network"] == "cac" and described["rule"]["settings"] == {"acceptance": 0.5}
    assert "there are none" in describe_fit(result)


@pytest.mark.slow
def test_it_ends_in_time_on_this_machine(photos: Path) -> None:
    result = fit.run_fit(request(photos, minutes=0.3), ["nas-osr", "fit"])
    assert 0.2 * 18 < result["seconds"] < 1.2 * 18
    assert result["metrics"]["closed_set_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("seconds", "channels", "epochs"),
    [
        ({16: 0.1, 32: 0.2, 64: 1.0}, 64, 100),
        ({16: 0.1, 32: 0.1, 64: 0.1}, 64, 200),
        ({16: 0.9, 32: 1.0, 64: 3.0}, 32, 100),
        ({16: 0.9, 32: 2.0}, 32, 50),  # no time is spent on timing the next
        ({16: 7.9}, 16, 12),
    ],
)
def test_the_widest_network_with_enough_epochs(
    photos: Path, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], channels: int, epochs: int
) -> None:
    monkeypatch.setattr(fit_budget, "EPOCH_OVERHEAD", 0.1)
    monkeypatch.setattr(fit_budget, "time_epoch", timed({width: value - 0.1 for width, value in seconds.items()}))
    asked = request(photos)
    chosen = choose_training(asked, plan_part(asked), 112.1)
    assert (chosen.channels, chosen.epochs) == (channels, epochs)


def test_too_little_time_is_refused_with_what_would_do(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_budget, "time_epoch", timed({16: 20.0}))
    asked = request(photos, minutes=1)
    with pytest.raises(
        UserError, match=r"1 do for 2 epochs of 20 seconds, and 5 are needed: give --minutes \d"
    ) as told:
        choose_training(asked, plan_part(asked), 50.0)
    more = float(re.search(r"--minutes ([\d.]+)", str(told.value))[1])  # type: ignore[index]
    assert choose_training(asked, plan_part(asked), 60 * (more - 1) + 50).epochs >= 5


def test_a_search_needs_time_beside_a_whole_training(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_budget, "time_epoch", timed({64: 0.9, 0: 0.4}))
    asked = request(photos, search=True)
    part, training = plan_part(asked), TrainingChoice(64, 32, 200, 1.0)
    chosen = choose_search(asked, part, training, 10_000.0)
    assert chosen is not None and chosen.seconds == pytest.approx(chosen.epochs * 0.5)
    steps = 14 // chosen.batch_size  # of half the 2 x 16 training images of kept classes, but for validation
    assert (chosen.epochs - chosen.warmup_epochs) * steps >= fit_budget.SEARCH_STEPS
    with pytest.raises(UserError, match=r"search: 500 steps of one would take about .* needs --minutes \d+"):
        choose_search(asked, part, training, chosen.seconds / 0.35 / 0.9 - 1)
    assert choose_search(replace(asked, search=False), part, training, 10_000.0) is None
    few = replace(asked, known=["ant", "bee"])
    with pytest.raises(UserError, match="search: it needs at least 3 known classes, and there are 2"):
        choose_search(few, plan_part(few), training, 10_000.0)
    assert isinstance(chosen, SearchChoice)


def test_options_out_of_range(photos: Path) -> None:
    for wrong, message in (
        ({"minutes": 0}, "minutes must be greater than 0"),
        ({"accept": 1.0}, r"accept must lie in \(0, 1\)"),
        ({"search": True, "network": "cac"}, "search and network exclude each other"),
        ({"resume": "yes"}, "resume must be one of no, auto"),
        ({"folder": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            fit.run_fit(request(**{"photos": photos, **wrong}), ["nas-osr", "fit"])
    assert not Path("model").exists()


def test_dry_run_writes_nothing(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--minutes", "3", "--unknown", "bee", "--threads", "1", "--device", "cpu", "--dry_run", "--json"]
    assert main(["fit", str(photos), "--out", "model", *options]) == 0
    told = json.loads(capsys.readouterr().out)["would_fit"]
    assert told["known"] == ["ant", "cat"] and told["training"]["epochs"] >= 5
    assert not Path("model").exists()


def test_what_was_not_measured_is_said() -> None:
    result: dict[str, Any] = {
        "known": ["a", "b"],
        "search": None,
        "epochs": 7,
        "seconds": 90.0,
        "out": "my model",
        "intervals": {},
        "test_images": {"known": 5, "unknown": 0},
        "metrics": {"accepted_known": 0.8, "closed_set_accuracy": 1.0, "auroc": None},
    }
    told = describe_fit(result)
    assert "it knows a, b; 7 epochs of training, 90 seconds in all" in told
    assert "of 5 known test pictures it accepts 80.0% and has 100.0% right" in told
    assert "could not be measured: there are none" in told and "'my model'/fit-training" in told
    result |= {"test_images": {"known": 0, "unknown": 3}}
    assert "no test pictures of known classes" in describe_fit(result)
