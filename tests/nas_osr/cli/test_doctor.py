"""`nas-osr doctor` and `nas-osr rules`, and how results are printed."""

from __future__ import annotations

import json

import torch
import yaml

from nas_osr.cli.main import main
from nas_osr.cli.show import show_metrics
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.scoring import RULES, rules_for
from nas_osr.scoring.detectors import DETECTORS


def test_doctor_tells_what_a_bug_report_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_OSR_DATA", raising=False)
    assert main(["doctor"]) == 0
    report = yaml.safe_load(capsys.readouterr().out)
    assert (
        report["versions"]["torch"] == torch.__version__.partition("+")[0]
        or report["versions"]["torch"] == torch.__version__
    )
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert report["images"]["folder"] is None
    assert report["free disk here (GiB)"] > 0
    assert main(["doctor", "--json", "--data_dir", str(tmp_path / "none")]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert images == {"folder": str(tmp_path / "none"), "there": False, "found": []}


def test_doctor_finds_images(capsys, tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / "cifar10" / part / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / part / "cat" / "0.png")
    assert main(["doctor", "--json", "--data_dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["found"] == ["cifar10 train", "cifar10 test"]


def test_rules_marks_the_default(capsys):
    assert main(["rules"]) == 0
    own, more, bridged = capsys.readouterr().out.split("\n\n")
    heading, *rows, besides = own.splitlines()
    assert heading.split() == ["rule", *OBJECTIVES, "paper"]
    cells = [row.split(maxsplit=len(OBJECTIVES) + 1) for row in rows]
    assert [rule for rule, *_ in cells] == list(RULES)
    assert all(paper for *_, paper in cells)
    for column, objective in enumerate(OBJECTIVES, start=1):
        fed = {row[0] for row in cells if row[column] != "-"}
        assert fed == set(rules_for(objective_class(objective)))
        assert [row[0] for row in cells if row[column] == "*"] == [objective_class(objective).default_rule]
    assert besides.startswith("rotpred: ") and "side_task rotpred" in besides and "nas-osr[ood]" in more
    papers = {rule: paper for rule, *_, paper in cells}
    papers |= dict(row.split(maxsplit=1) for row in bridged.splitlines()[1:])
    assert set(papers) == {*RULES, *(f"pytorch_ood.{name}" for name in DETECTORS)}
    assert main(["rules", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objectives"]["vae_contrastive"][0] == "cap" and found["papers"] == papers


def test_metrics_table(capsys):
    spread = {"auroc": {"mean": 0.9, "std": 0.05, "n": 2}, "oscr": {"mean": None, "std": None, "n": 0}}
    show_metrics({"split-0": {"auroc": 0.85, "oscr": None}, "mean ± std": spread})
    assert capsys.readouterr().out.splitlines() == [
        "metric  split-0  mean ± std",
        "auroc   0.8500   0.9000 ± 0.0500",
        "oscr    -        -",
    ]
