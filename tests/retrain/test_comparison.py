"""`nas-osr compare`: rows of run folders, published figures, and the three formats."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_osr.cli.main import main
from nas_osr.cli.options import parse_options
from nas_osr.configuration import parse_range
from nas_osr.data.protocols import make_protocol, with_unknown
from nas_osr.data.rehearsal import rehearse
from nas_osr.data.tasks import FAMILIES, PROTOCOLS
from nas_osr.errors import UserError
from nas_osr.retrain.comparison import (
    METRICS,
    describe_network,
    find_rows,
    orientation_only,
    published_rows,
)
from nas_osr.retrain.comparison import with_published as beside
from nas_osr.retrain.evaluated import asked_places
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import sample_architecture

from .conftest import write_metrics, write_retraining, write_run


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    return code, *capsys.readouterr()


def test_mean_and_spread_over_splits_and_seeds(tmp_path: Path) -> None:
    names = ["split-0-seed-0", "split-0-seed-1", "split-3-seed-0", "split-3-seed-1"]
    values = dict(zip(names, [0.7, 0.8, 0.9, 0.8], strict=True))
    [row] = find_rows([write_retraining(tmp_path / "run", values, splits="0,3", seeds="0-1", objective="cac")])
    assert row.metrics["auroc"]["mean"] == pytest.approx(0.8)
    assert row.metrics["auroc"]["std"] == pytest.approx((0.02 / 3) ** 0.5)
    assert (row.method, row.protocol, row.family) == ("cac, mls, published", "cifar10", "arpl")
    assert (row.parts, row.parameters, row.macs, row.incomplete) == ("2 x 2", 639_000, 2_500_000_000, False)


def test_other_rules_and_unknowns_are_rows_of_their_own(tmp_path: Path) -> None:
    folder = write_retraining(tmp_path / "run", {"split-0": 0.7, "split-1": 0.8}, splits="0-1", network="resnet18")
    protocol = make_protocol("cifar10")
    for split in ("split-0", "split-1"):
        write_metrics(folder / split, 0.6, protocol.to_dict(), "cac", "cac")
    write_metrics(folder / "split-1", 0.5, with_unknown(protocol, "svhn").to_dict(), "svhn")
    rows = find_rows([folder])
    assert [(row.method.split(", ")[1], row.protocol) for row in rows] == [
        ("mls", "cifar10"), ("cac", "cifar10"), ("mls", "cifar10 against svhn"),
    ]  # fmt: skip
    assert [row.metrics["auroc"]["n"] for row in rows] == [2, 2, 1]
    assert [row.incomplete for row in rows] == [False, False, True]
    assert rows[0].method.endswith("resnet18")
    [single] = find_rows([folder / "split-0"])[:1]
    assert (single.metrics["auroc"]["mean"], single.parts, single.incomplete) == (0.7, "1 x 1", False)


def test_parents_are_searched_and_no_run_comes_twice(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        write_retraining(tmp_path / "all" / name, {"split-0": 0.7})
    write_run(tmp_path / "all" / "search", {"split": 0})
    rows = find_rows([tmp_path / "all" / "b", tmp_path / "all", tmp_path / "all" / "b"])
    assert [Path(row.source).name for row in rows] == ["b", "deep"]


def test_runs_that_would_be_called_the_same_have_what_differs_of_their_folders(tmp_path: Path) -> None:
    for name in ("a/pas", "b/pas", "gdas"):
        write_retraining(tmp_path / name, {"split-0": 0.7})
    write_retraining(tmp_path / "cac", {"split-0": 0.7}, objective="cac")
    usual = "vae_contrastive, mls, published"
    assert {row.method for row in find_rows([tmp_path])} == {
        f"{usual} (a/pas)", f"{usual} (b/pas)", f"{usual} (gdas)", "cac, mls, published",
    }  # fmt: skip
    assert [row.method for row in find_rows([tmp_path / "gdas"])] == [usual]


def test_other_evaluations_of_one_run_are_told_apart(tmp_path: Path) -> None:
    part = write_retraining(tmp_path / "run", {"split-0": 0.7}, network="resnet18") / "split-0"
    protocol = make_protocol("cifar10").to_dict()
    write_metrics(part, 0.8, protocol, "mirrored")
    for name in ("cats", "dogs"):  # folders without folders of classes: the classes are called alike
        write_metrics(part, 0.5, {**protocol, "unknown_source": "folder", "unknown": ["images"]}, name)
        file, about = (
            part / f"metrics-{name}.json",
            {"unknown_folder": f"/x/{name}", "data_fingerprints": {"test": name}},
        )
        file.write_text(json.dumps({**json.loads(file.read_text()), **about}))
    usual = "vae_contrastive, mls, resnet18"
    assert [(row.method, row.protocol) for row in find_rows([part.parent])] == [
        (usual, "cifar10"), (usual, "cifar10 against cats"), (usual, "cifar10 against dogs"),
        (f"{usual} (metrics-mirrored.json)", "cifar10"),
    ]  # fmt: skip
    named = [row.method for row in find_rows([part.parent], ["A"])]
    assert named == ["A", "A", "A", "A (metrics-mirrored.json)"]


def test_parts_that_were_evaluated_against_different_folders_have_no_mean(tmp_path: Path) -> None:
    run = write_retraining(tmp_path / "run", {"split-0": 0.7, "split-1": 0.8})
    protocol = {**make_protocol("cifar10").to_dict(), "unknown_source": "folder", "unknown": ["images"]}
    for split, folder in (("split-0", "/x/cats"), ("split-1", "/y/cats")):
        write_metrics(run / split, 0.5, protocol, "cats")
        file = run / split / "metrics-cats.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "unknown_folder": folder}))
    with pytest.raises(UserError, match="evaluated as cats against several folders, /x/cats and /y/cats: evaluate it"):
        find_rows([run])


def test_the_working_folder_is_told_apart_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_retraining(tmp_path / name, {"split-0": 0.7})
    monkeypatch.chdir(tmp_path / "a")
    assert [row.method.partition(" (")[2] for row in find_rows([".", "../b"])] == ["a)", "b)"]


def test_figures_of_fewer_images_stand_apart(tmp_path: Path) -> None:
    folder = write_retraining(tmp_path / "run", {"split-0": 0.7}, limit_per_class=9)
    (row,) = find_rows([folder])
    assert row.protocol == "cifar10, 9 images a class" and beside([row], ["auroc"]) == [row]


def test_a_rehearsal_stands_apart(tmp_path: Path) -> None:
    """Neither averaged with a protocol's own figures, nor beside published ones."""
    folder = write_retraining(tmp_path / "run", {"split-0": 0.7})
    write_metrics(folder / "split-0", 0.7, rehearse(make_protocol("cifar10"), ["airplane", "frog"]).to_dict())
    (row,) = find_rows([folder])
    assert (row.protocol, row.family) == ("cifar10 rehearsed", "rehearsal")
    assert beside([row], ["auroc"]) == [row]


def test_changed_images_are_noticed_before_they_are_compared(tmp_path: Path) -> None:
    def record(folder: Path, label: str = "", **fingerprints: str) -> None:
        file = folder / "split-0" / f"metrics{label}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "data_fingerprints": fingerprints}))

    first, second = (write_retraining(tmp_path / name, {"split-0": 0.7}) for name in ("a", "b"))
    fewer = write_retraining(tmp_path / "c", {"split-0": 0.7}, limit_per_class=9)
    older = write_retraining(tmp_path / "d", {"split-0": 0.7})
    record(first, known="k", test="t")
    record(second, known="k", test="t")
    record(fewer, known="other", test="other")  # says itself that its images are others
    assert len(find_rows([first, second, fewer, older])) == 4
    for kind in ("known", "test"):
        record(second, **{"known": "k", "test": "t", kind: "changed"})
        with pytest.raises(UserError, match=f"their {kind} images differ") as caught:
            find_rows([first, second])
        assert "\n" not in str(caught.value)
        assert len(find_rows([second])) == 1


def test_bad_folders_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    broken = write_retraining(tmp_path / "broken", {"split-0": 0.7})
    (broken / "split-0" / "metrics.json").write_text("{}")
    for name, message in (
        ("none", "no such folder"), ("empty", "no evaluated retraining in it"), ("broken", "not the metrics of a"),
    ):  # fmt: skip
        code, out, err = run(capsys, str(tmp_path / name))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(tmp_path / name) in err
        assert message in err


def test_published_figures_stand_beside_runs_of_their_protocol(tmp_path: Path) -> None:
    rows = find_rows([write_retraining(tmp_path / "run", {"split-0": 0.7}, family="neal")])
    table = beside(rows, METRICS)
    assert table[0] is rows[0]
    assert {row.protocol for row in table} == {"cifar10"}
    named = {(row.method, row.source): row for row in table[1:]}
    cac = named["CAC", "Miller et al. 2021"]
    assert cac.metrics["auroc"]["mean"] == pytest.approx(0.803)
    assert cac.metrics["closed_set_accuracy"]["mean"] == pytest.approx(0.934)
    assert not orientation_only(cac, table)
    found = named["NAS-OSR", "NAS-OSR"]
    assert found.metrics["macro_f1_harmonic"]["mean"] == pytest.approx(0.7529)
    assert orientation_only(found, table)
    assert orientation_only(named["CGDL", "as later papers print it"], table)  # its splits are not known
    assert beside(rows, ["tnr_at_95_tpr"]) == rows


def test_published_figures_are_shares_of_protocols_that_exist() -> None:
    for row in published_rows():
        assert row.protocol.partition(" against ")[0] in PROTOCOLS
        assert row.family in (*FAMILIES, None)
        assert row.source
        for name, figure in row.metrics.items():
            assert re.fullmatch(r"auroc|auin|auout|dtacc|tnr_at_95_tpr|macro_f1_harmonic|closed_set_accuracy", name)
            assert 0.5 < figure["mean"] < 1.0
    assert len({(row.method, row.protocol, row.source) for row in published_rows()}) == len(published_rows())
    table = [row for row in published_rows() if row.method == "GradMix" and "auroc" in row.metrics]
    assert {row.protocol: round(100 * row.metrics["auroc"]["mean"], 2) for row in table} == {
        "mnist": 99.8, "svhn": 94.7, "cifar10": 91.33, "cifar+10": 98.62, "cifar+50": 97.64, "tinyimagenet": 81.92,
        "cifar10-closed against cifar100": 93.22,
    }  # fmt: skip


def test_the_table_has_percent_with_one_decimal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_retraining(tmp_path / "run", {"split-0": 0.7004, "split-1": 0.8}, splits="0-2", objective="cac")
    code, out, _ = run(capsys, str(folder))
    assert code == 0
    lines = out.splitlines()
    assert re.search(r"AUROC +OSCR +macro-F1 +harmonic F1 +accuracy +parameters +MACs +from$", lines[0])
    assert lines[1].startswith("cac, mls, published !")
    assert re.search(r"2 x 1 +75.0 ± 7.0 +- +- +- +90.0 ± 0.0 +0.64M +2.50G +" + re.escape(str(folder)), lines[1])
    assert any(line.startswith("CAC * ") and " 80.3 " in line for line in lines)
    assert any(line.startswith("GradMix  ") and " 91.3 " in line for line in lines)
    assert "orientation only" in lines[-2]
    assert "missing" in lines[-1]
    _, out, _ = run(capsys, str(folder), "--no_published")
    assert len(out.splitlines()) == 4
    assert "orientation" not in out


def test_markdown_csv_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_retraining(tmp_path / "one", {"split-0": 0.7, "split-1": 0.8}, splits="0-1")
    two = write_retraining(tmp_path / "two|", {"split-0": 0.65}, protocol="mnist")
    options = [str(one), str(two), "--metric", "auroc,tnr_at_95_tpr"]
    _, markdown, _ = run(capsys, *options, "--format", "markdown")
    lines = markdown.splitlines()
    assert set(lines[1]) == set("| -")
    cells = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines if line.startswith("| ")]
    assert len({len(row) for row in cells}) == 1
    assert cells[2][4:6] == ["75.0 ± 7.1", "25.0 ± 0.0"]
    _, text, _ = run(capsys, *options, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(cells) - 2
    assert (rows[0]["auroc"], rows[0]["auroc_std"], rows[0]["tnr_at_95_tpr"]) == ("75.0", "7.1", "25.0")
    _, text, _ = run(capsys, *options, "--json")
    records = json.loads(text)["rows"]
    assert [record["method"] for record in records] == [row["method"] for row in rows]
    assert records[0]["metrics"]["auroc"]["mean"] == pytest.approx(0.75)
    assert sum(record["orientation_only"] for record in records) == sum(
        row["orientation_only"] == "True" for row in rows
    )


def test_an_unknown_metric_or_format_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_retraining(tmp_path / "run", {"split-0": 0.7}))
    for arguments, message in (
        (("--metric", "aurok"), "did you mean auroc?"),
        (("--format", "pdf"), "--format must be"),
    ):
        code, _, err = run(capsys, folder, *arguments)
        assert code == 2
        assert message in err


def test_networks_are_named() -> None:
    assert describe_network({"architecture": published().to_dict()}) == "published"
    space = published().space
    assert describe_network({"architecture": sample_architecture(space, seed=5).to_dict()}) == "random seed 5"
    assert describe_network({"network": "vgg13", "architecture": None}) == "vgg13"
    pooled = replace(space, stem="pooled")
    found = [replace(published(), space=pooled), sample_architecture(pooled, seed=5)]
    assert [describe_network({"architecture": architecture.to_dict()}) for architecture in found] == [
        "published, pooled stem",
        "random seed 5, pooled stem",
    ]


@pytest.mark.parametrize("text", ["0", "0-4", "0,2,5-7", " 3 , 5-6"])
def test_ranges_are_read_as_retraining_reads_them(text: str) -> None:
    found = list(asked_places({"splits": text, "seeds": "0"}))
    assert found == [(str(split), "0") for split in parse_range("splits", text)]


def test_a_list_at_the_end_takes_all_positional_arguments() -> None:
    def command(first: str, rest: list[str]) -> None:
        """Do.

        Args:
            first: one of them.
            rest: the others.
        """

    both = ("first", "rest")
    assert parse_options(command, ["a", "b, c", "d"], "x", both) == {"first": "a", "rest": ["b, c", "d"]}
    assert parse_options(command, ["--rest", "b,c", "a"], "x", both) == {"first": "a", "rest": ["b", "c"]}
    with pytest.raises(UserError, match="rest is missing"):
        parse_options(command, ["a"], "x", both)


@pytest.mark.parametrize("text", ["", "x", "0-", "4-x", None, "0-999999999", "0-999999,0-999999,0-999999", [0]])
def test_other_ranges_are_refused_without_being_written_out(text: Any) -> None:
    with pytest.raises(UserError, match="splits or seeds"):
        asked_places({"splits": text, "seeds": "0"})


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": []}, {"metrics": {"auroc": "0.7"}}, {"metrics": {"auroc": [0.7]}}, {"metrics": {"auroc": 1e308}},
        {"rule": None}, {"protocol": {}}, {"protocol": []}, {"parameters": "many"}, {"parameters": -1}, {"macs": True},
    ],
)  # fmt: skip
def test_broken_metrics_are_told_in_one_line(change: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_retraining(tmp_path / "run", {"split-0": 0.7}) / "split-0" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    code, out, err = run(capsys, str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{file}: not the metrics of a retraining" in err


@pytest.mark.parametrize("name", ["objective", "architecture", "splits", "seeds"])
def test_a_broken_configuration_is_told_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_retraining(tmp_path / "run", {"split-0": 0.7}) / "split-0" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config[name]
    file.write_text(yaml.safe_dump(config))
    code, out, err = run(capsys, str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{file}: not the configuration of a retraining" in err
