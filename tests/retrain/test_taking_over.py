"""What a retraining takes over from its search, from records and files alike; each option that is given wins."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.cli.main import main
from nas_osr.cli.sweep import check_sweep, option_names
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.subclusters.choice import plan_subclusters
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.retrain.taking_over import fill_open
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.sweeps.sweep_file import read_sweep

SEARCHED: dict[str, Any] = {
    "protocol": "digits", "family": "nas_osr", "split": 2, "preset": "tiny", "limit_per_class": 40,
    "objective": "cross_entropy", "objective_config": {"label_smoothing": 0.2}, "rule": "neighbours",
    "rule_config": {"k": 3},
}  # fmt: skip
PLUGIN = """\
from nas_osr.objectives.cross_entropy import CrossEntropy

class Mine(CrossEntropy):
    name = "mine"
"""


def record_of(**options: Any) -> dict[str, Any]:
    """What config.yaml of this search holds."""
    request = SearchRequest(**{**SEARCHED, **options}, dry_run=True)
    return run_search(request, ["nas-osr"], estimate=False)["would_search"]


def write_search(folder: Path, **options: Any) -> str:
    """The folder of a finished search, without its training."""
    record = record_of(**options)
    names = ("strategy", "objective", "rule", "protocol", "family", "known", "split")
    about = {name: record[name] for name in names if record[name] is not None}
    space = Space(layers=4, channels=16, operations=("skip", "conv"))
    with RunFolder.create(folder) as run:
        run.provenance(["nas-osr", "search"], record)
        replace(sample_architecture(space), found=about).save(folder / "architecture.json")
        run.finish()
    return str(folder)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_search(tmp_path_factory.mktemp("searched") / "search")


def recorded(architecture: Any, **options: Any) -> dict[str, Any]:
    """What the config.yaml of a retraining will hold."""
    return dict(plan_retrain(RetrainRequest(architecture=architecture, **options)).recorded)


def test_what_was_searched_for_is_what_is_retrained(search: str, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_retrain(RetrainRequest(architecture=search))
    for name in ("protocol", "family", "preset", "limit_per_class", "objective", "objective_config", "rule"):
        assert plan.recorded[name] == SEARCHED[name], name
    assert plan.recorded["splits"] == "2" and plan.recorded["rule_config"] == {"k": 3}
    [part] = plan.parts
    assert part.training.protocol == nas_osr.make_protocol("digits", 2, family="nas_osr")
    assert part.training.objective.settings.label_smoothing == 0.2
    [line] = [record for record in caplog.records if "taken over" in record.message]
    assert line.levelno == logging.WARNING  # what is shown without any setting
    assert line.message.startswith(f"{search}/config.yaml: taken over: protocol digits, family nas_osr, ")
    for text in (
        "splits 2",
        "limit_per_class 40",
        "objective_config.label_smoothing 0.2",
        "rule neighbours",
        "preset tiny",
    ):
        assert text in line.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"splits": "0-1"}, {"splits": "0-1", "family": "nas_osr"}),
        ({"family": "arpl"}, {"family": "arpl", "splits": "0", "protocol": "digits", "limit_per_class": 40}),
        ({"known": [1, 2]}, {"known": ["1", "2"], "family": "arpl", "splits": "0"}),
        ({"class_seed": 3}, {"class_seed": 3, "family": "arpl", "splits": "0"}),
        ({"protocol": "digits"}, {"family": "nas_osr", "splits": "2"}),
        ({"protocol": "mnist"}, {"family": "arpl", "splits": "0", "limit_per_class": None, "rule": "neighbours"}),
        ({"limit_per_class": 0}, {"limit_per_class": None, "family": "nas_osr"}),
        ({"limit_per_class": 9}, {"limit_per_class": 9}),
        ({"preset": "small"}, {"preset": "small", "epochs": 20, "objective": "cross_entropy"}),
        ({"objective_config": {"label_smoothing": 0}}, {"objective_config": {"label_smoothing": 0}}),
        ({"objective_config": {"center_weight": 0.5}},
         {"objective_config": {"label_smoothing": 0.2, "center_weight": 0.5}}),
        ({"objective": "cross_entropy"}, {"objective_config": {"label_smoothing": 0.2}, "rule": "neighbours"}),
        ({"objective": "cac"}, {"objective_config": {}, "rule": "cac", "rule_config": {}, "protocol": "digits"}),
        ({"rule": "mls"}, {"rule": "mls", "rule_config": {}, "objective": "cross_entropy"}),
        ({"rule": "neighbours", "rule_config": {"k": 4}}, {"rule_config": {"k": 4}}),
    ],
)  # fmt: skip
def test_what_is_given_wins(search: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = recorded(search, **given)
    assert {name: found[name] for name in expected} == expected


def test_published_and_random_architectures_and_values_have_no_search(search: str) -> None:
    value = json.loads((Path(search) / "architecture.json").read_text())
    for reference in ("published", "random:0", value):
        found = recorded(reference)
        assert [found[name] for name in ("protocol", "family", "objective", "preset", "splits")] == [
            "cifar10", "arpl", "cross_entropy", "small", "0",
        ]  # fmt: skip


def test_an_architecture_file_in_its_run_folder_is_its_run(search: str) -> None:
    assert recorded(f"{search}/architecture.json") == recorded(search)


def test_an_architecture_file_alone_says_what_it_knows(
    search: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "found.json"
    shutil.copy(Path(search) / "architecture.json", file)
    found = recorded(str(file))
    assert [found[name] for name in ("protocol", "family", "splits", "objective", "rule", "preset")] == [
        "digits", "nas_osr", "2", "cross_entropy", "neighbours", "small",
    ]  # fmt: skip
    assert found["objective_config"] == {} and found["limit_per_class"] is None
    assert f"{file}: taken over: protocol digits" in caplog.text


def test_known_classes_and_their_folder_are_taken_over(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            (tmp_path / "images" / part / name / "x.png").touch()
    folder = {"protocol": "folder", "family": "arpl", "split": 0, "data_dir": str(tmp_path / "images")}
    search = write_search(tmp_path / "search", **folder, known=["cat", "ant"], pseudo_unknown=[])
    found = recorded(search)
    assert found["known"] == ["cat", "ant"] and found["data_dir"] == str(tmp_path / "images")
    # of another protocol neither the classes nor, since it is these pictures, the folder
    other = recorded(search, protocol="digits")
    assert other["known"] is None and other["data_dir"] is None


def test_broken_images_stay_passed_over(tmp_path: Path) -> None:
    search = write_search(tmp_path / "search", skip_broken=True, class_seed=0, family="arpl")
    assert recorded(search)["skip_broken"] is True and recorded(search)["class_seed"] == 0
    other = write_search(tmp_path / "other", skip_broken=False)
    assert recorded(other)["skip_broken"] is False and recorded(other, skip_broken=True)["skip_broken"] is True


def test_a_folder_of_all_data_sets_serves_another_protocol(tmp_path: Path) -> None:
    search = write_search(tmp_path / "search", data_dir="/images")
    assert recorded(search, protocol="cifar10")["data_dir"] == "/images"
    assert recorded(search, protocol="cifar10", data_dir="/others")["data_dir"] == "/others"


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_what_a_preset_and_the_paper_fix_for_a_search_they_fix_anew(preset: str, tmp_path: Path) -> None:
    """Sizes of heads, and the coefficients that differ between the phases."""
    options: dict[str, Any] = {"objective": "vae_contrastive", "rule": None, "rule_config": {}}
    search = write_search(tmp_path / "search", **options, objective_config={}, preset=preset, batch_size=8)
    for other in ("tiny", "small", "paper"):
        request = RetrainRequest(protocol="digits", family="nas_osr", splits="2", objective="vae_contrastive")
        plain = plan_retrain(replace(request, preset=other)).parts[0].training.objective.settings
        taken = plan_retrain(RetrainRequest(architecture=search, preset=other)).parts[0].training.objective.settings
        assert taken == plain
    assert plain.kl_weight == 0.5
    own = write_search(tmp_path / "own", **options, objective_config={"decoder_channels": 24}, preset=preset)
    assert recorded(own, preset="small")["objective_config"]["decoder_channels"] == 24


def test_settings_class_by_class_are_not_taken_over_to_other_classes(tmp_path: Path) -> None:
    counts = {"subclusters": [1, 2, 1, 1, 2, 1]}
    options: dict[str, Any] = {"objective": "gmvae", "objective_config": counts, "rule": None, "rule_config": {}}
    search = write_search(tmp_path / "search", **options)
    assert recorded(search)["objective_config"]["subclusters"] == counts["subclusters"]
    with pytest.raises(UserError, match="subclusters differs between classes: give --objective_config.subclusters"):
        recorded(search, splits="0-1")
    assert recorded(search, splits="0-1", objective_config={"subclusters": 2})["objective_config"]["subclusters"] == 2
    one = write_search(tmp_path / "one", **{**options, "objective_config": {"subclusters": 3}})
    assert recorded(one, splits="0-1")["objective_config"]["subclusters"] == 3


def test_outliers_come_with_the_settings_that_need_them(tmp_path: Path) -> None:
    options = {"objective": "confidence", "objective_config": {"source": "outliers"}, "outliers": "mnist"}
    record = record_of(**options, protocol="cifar10", rule=None, rule_config={})
    taken = fill_open(RetrainRequest(), record, "here")
    assert taken.outliers == "mnist" and taken.objective_config["source"] == "outliers"
    assert fill_open(RetrainRequest(objective_config={"source": "gan"}), record, "here").outliers is None
    assert fill_open(RetrainRequest(outliers="svhn"), record, "here").outliers == "svhn"


def test_settings_that_are_no_more_are_named_and_left_out(search: str, caplog: pytest.LogCaptureFixture) -> None:
    record = RunFolder.open(search).read_config()
    record["objective_config"]["faster"] = True
    assert "faster" not in fill_open(RetrainRequest(), record, "here").objective_config
    assert "here: left out, since cross_entropy has no such setting any more: faster" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": 5}, "protocol"),
        ({"split": "x"}, "splits"),
        ({"preset": "huge"}, "unknown preset"),
        ({"objective": "nonsense"}, "unknown objective"),
        ({"objective_config": [1]}, "objective_config"),
    ],
)
def test_a_broken_record_is_refused_in_one_line(search: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        fill_open(RetrainRequest(), {**RunFolder.open(search).read_config(), **change}, "here")
    assert "\n" not in str(refused.value)


def test_the_users_own_objective_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder imports nothing: neither the objective of a search nor its rule."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_loss.py").write_text(PLUGIN)
    search = write_search(tmp_path / "search", objective="my_loss.Mine", rule="mls", rule_config={})
    dry = ["retrain", search, "--device", "cpu", "--batch_size", "8", "--dry_run", "--json"]
    monkeypatch.delitem(__import__("sys").modules, "my_loss")
    assert main(dry) == 2
    error = capsys.readouterr().err
    assert "'my_loss.Mine' is a plug-in that is not loaded: add --plugin my_loss, or give another --obj" in error
    assert error.count("\n") == 1
    assert main([*dry, "--objective", "cac"]) == 0
    for naming in (["--plugin", "my_loss"], ["--objective", "my_loss.Mine"]):
        capsys.readouterr()
        monkeypatch.delitem(__import__("sys").modules, "my_loss", raising=False)
        assert main([*dry, *naming]) == 0
        [part] = json.loads(capsys.readouterr().out)["would_retrain"]
        assert part["objective"] == "my_loss.Mine" and part["objective_config"]["label_smoothing"] == 0.2


def test_a_search_and_its_retraining_from_python(tmp_path: Path) -> None:
    """From end to end, with nothing said twice; what the retraining records repeats it alone."""
    out = tmp_path / "search"
    common: dict[str, Any] = {"device": "cpu", "threads": 1, "quiet": True}
    nas_osr.search(
        out=str(out), protocol="digits", known=[0, 1, 2, 3], preset="tiny", layers=3, epochs=2,
        strategy_config={"warmup_epochs": 1}, limit_per_class=20, batch_size=16, objective="cross_entropy",
        rule="energy", **common,
    )  # fmt: skip
    nas_osr.train(architecture=str(out), out=str(tmp_path / "run"), epochs=1, bootstrap=0, **common)
    run = RunFolder.open(tmp_path / "run" / "split-0")
    config = run.read_config()
    assert [config[name] for name in ("protocol", "known", "objective", "rule", "preset", "limit_per_class")] == [
        "digits", ["0", "1", "2", "3"], "cross_entropy", "energy", "tiny", 20,
    ]  # fmt: skip
    # an architecture file by itself knows the classes, too
    shutil.move(out / "architecture.json", tmp_path / "alone.json")
    assert recorded(str(tmp_path / "alone.json"))["known"] == ["0", "1", "2", "3"]
    shutil.rmtree(out)
    nas_osr.train(**config, out=str(tmp_path / "again"), quiet=True)
    for name in ("config.yaml", "metrics.json", "history.jsonl", "architecture.json"):
        assert (tmp_path / "again" / "split-0" / name).read_bytes() == (run.path / name).read_bytes(), name
    # the retraining's own folder is taken over from in turn
    assert recorded(str(run.path), epochs=1)["known"] == ["0", "1", "2", "3"]


def test_subclusters_take_over_from_the_search(search: str, tmp_path: Path) -> None:
    plan = plan_subclusters(SubclustersRequest(architecture=search))
    assert [plan.recorded[name] for name in ("protocol", "family", "split", "preset", "limit_per_class")] == [
        "digits", "nas_osr", 2, "tiny", 40,
    ]  # fmt: skip
    counts = {"subclusters": [1, 2, 1, 1, 2, 1], "latent_dim": 7}
    own = write_search(tmp_path / "gmvae", objective="gmvae", objective_config=counts, rule=None, rule_config={})
    found = plan_subclusters(SubclustersRequest(architecture=own, split=0)).recorded
    assert found["split"] == 0 and found["objective_config"]["latent_dim"] == 7
    assert "subclusters" not in found["objective_config"]


def test_a_sweep_checks_a_retraining_with_what_its_search_will_hand_over(tmp_path: Path) -> None:
    plan = """\
about: a search and what it found.
runs:
  - name: search
    command: search
    options: {protocol: digits, preset: tiny, objective: cac, device: cpu}
  - name: retrain
    command: retrain
    needs: search
    options: {architecture: "{out}/search", objective_config.alpha: 3, device: cpu}
  - name: evaluate
    command: evaluate
    needs: retrain
    options: {run: "{out}/retrain", rule: RULE}
"""
    file = tmp_path / "plan.yaml"
    file.write_text(plan.replace("RULE", "cac"))
    check_sweep(read_sweep(str(file), option_names))
    file.write_text(plan.replace("RULE", "cap"))
    with pytest.raises(UserError, match=r"run evaluate: .*cap"):
        check_sweep(read_sweep(str(file), option_names))
    file.write_text(plan.replace("RULE", "cac").replace(".alpha", ".temperature"))
    with pytest.raises(UserError, match="run retrain: objective cac has no setting 'temperature'"):
        check_sweep(read_sweep(str(file), option_names))
