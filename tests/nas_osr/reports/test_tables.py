"""Tables of comparisons: LaTeX, pivots, names, order, the best figures, spreads apart, and runs in pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp, wilcoxon

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.metrics.resampling import (
    bootstrap_intervals,
    paired_differences,
    signed_rank,
    spread_apart,
    student_interval,
)
from nas_osr.reports.sheets import Sheet, escape_latex, write_sheet
from nas_osr.reports.tables import format_percent, pivot_sheets, rank_rows, sort_rows, with_other_names
from nas_osr.retrain.comparison import Row, find_rows, published_rows, with_published
from nas_osr.retrain.paired import compare_pair

from .conftest import make_predictions, write_result

Method = Callable[..., Path]


def row(method: str, protocol: str, auroc: float | None, **more: Any) -> Row:
    figures = {"auroc": {"mean": auroc, "std": None, "n": 1}, "tnr_at_95_tpr": {"mean": auroc, "std": 0.1, "n": 2}}
    return Row(method=method, protocol=protocol, family="arpl", source=f"runs/{method}", metrics=figures, **more)


def test_latex_is_a_booktabs_table_with_the_best_marked() -> None:
    lines = [["a_b & c", "84.2 ± 1.3"], ["100 %", "91.0"], ["x^2", "-"]]
    text = write_sheet(
        Sheet(["method", "AUROC"], lines, {(1, 1): 1, (0, 1): 2}, {0: "one", 2: "two_2"}, ["note"]), "latex"
    )
    assert text.splitlines() == [
        r"% needs \usepackage{booktabs}", "% note", r"\begin{tabular}{lc}", r"\toprule",
        r"method & AUROC \\", r"\midrule",
        r"\multicolumn{2}{l}{\textit{one}} \\", r"a\_b \& c & \underline{84.2 $\pm$ 1.3} \\",
        r"100 \% & \textbf{91.0} \\",
        r"\addlinespace", r"\multicolumn{2}{l}{\textit{two\_2}} \\", r"x\textasciicircum{}2 & - \\", r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    assert escape_latex("\\{}~#$") == r"\textbackslash{}\{\}\textasciitilde{}\#\$"


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_name_of_two_lines_leaves_a_row_whole(form: Any) -> None:
    lines = write_sheet(Sheet(["method", "AUROC"], [["a\nb", "1.0"]]), form).splitlines()
    assert sum("a b" in line and "1.0" in line for line in lines) == 1


def test_the_best_are_ranked_as_they_are_printed() -> None:
    rows = [row("a", "x", 0.9001), row("b", "x", 0.9004), row("c", "x", 0.8), row("d", "x", None), row("e", "y", 0.9)]
    assert rank_rows(rows, "auroc") == {0: 1, 1: 1, 2: 2}  # equal to a tenth of a percent; alone on y
    assert rank_rows(with_other_names(rows), "fpr_at_95_tpr") == {0: 1, 1: 1, 2: 2}
    mine = row("mine", "cifar10", 0.8)
    other = [item for item in published_rows() if item.protocol == "cifar10" and "auroc" in item.metrics]
    ranked = rank_rows([mine, *other], "auroc")
    compared = [item for item in [mine, *other] if item.family == "arpl"]
    best = max(compared, key=lambda item: item.metrics["auroc"]["mean"])
    assert ranked[[mine, *other].index(best)] == 1 and set(ranked.values()) == {1, 2}


def test_fpr95_is_what_tnr95_leaves(method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = method(tmp_path / "run")
    assert main(["compare", str(folder), "--metric", "fpr95,tnr95,aupr_in,AUPR-out", "--no_published"]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", heading)[4:8] == ["FPR95", "TNR95", "AUPR-in", "AUPR-out"]
    shown = [float(cell.split()[0]) for cell in re.split(r"  +", line)[4:8]]
    assert shown[0] + shown[1] == pytest.approx(100, abs=0.11)
    [found] = find_rows([folder])
    assert shown[2:] == [round(100 * found.metrics[name]["mean"], 1) for name in ("auin", "auout")]


def test_names_and_order(method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weak, strong = method(tmp_path / "weak", 0.5), method(tmp_path / "strong", 3.0)
    runs = [str(weak), str(strong), "--name", "weak one,strong one", "--no_published"]
    assert main(["compare", *runs, "--sort", "auroc"]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["strong one", "weak one"]
    assert main(["compare", *runs, "--sort", "fpr95"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("strong one")
    assert [item.method for item in sort_rows([row("a", "x", None), row("b", "x", 0.1)], "auroc")] == ["b", "a"]
    for names, message in (("one", "1 names for 2 runs"), ("a,b,c", "3 names for 2 runs")):
        with pytest.raises(UserError, match=message):
            find_rows([weak, strong], names.split(","))
    with pytest.raises(UserError, match="both have split 0, seed 0, and one name stands for one method: name each"):
        find_rows([tmp_path], ["all"])
    write_result(weak / "split-0", make_predictions(0, 1.0, 1), "cifar10")
    (weak / "split-0" / "metrics-msp.json").write_text(
        json.dumps({**json.loads((weak / "split-0" / "metrics.json").read_text()), "rule": "msp"})
    )
    assert [item.method for item in find_rows([weak], ["weak"])] == ["weak, cac", "weak, msp"]


def test_a_pivot_has_methods_against_protocols(
    method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(method(tmp_path / name, protocol=name)) for name in ("cifar10", "svhn")]
    assert main(["compare", *runs, "--name", "CAC,CAC", "--pivot", "--metric", "auroc,oscr", "--no_published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "AUROC" and lines[1].split() == ["method", "cifar10", "svhn"]
    assert lines[2].startswith("CAC  ") and lines[2].count("±") == 2 and lines[4] == "OSCR"
    assert main(["compare", *runs, "--name", "CAC,CAC", "--pivot", "--metric", "auroc", "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert "MLS (Vaze et al. 2022; arpl) & \\textbf{93.6}" in text and "CAC (Miller et al. 2021; neal) & 80.3 *" in text
    assert main(["compare", *runs, "--pivot", "--format", "csv"]) == 2
    twice = with_published([row("CAC", "cifar10", 0.5), row("CAC", "cifar10", 0.6)], ["auroc"])
    with pytest.raises(UserError, match="two runs are called CAC on cifar10"):
        pivot_sheets(twice, ["auroc"])


def test_spreads_over_splits_and_seeds_stand_apart() -> None:
    values = {("0", "0"): 0.7, ("0", "1"): 0.8, ("1", "0"): 0.9, ("1", "1"): 0.9, ("2", "0"): None}
    between, inside = spread_apart(values)
    assert between == pytest.approx(np.std([0.75, 0.9], ddof=1))
    assert inside == pytest.approx(np.sqrt(np.mean([np.var([0.7, 0.8], ddof=1), 0.0])))
    assert spread_apart({("0", "0"): 0.7, ("0", "1"): 0.8}) == (None, pytest.approx(np.std([0.7, 0.8], ddof=1)))
    assert spread_apart({("0", "0"): 0.7}) == (None, None)
    figure = {"mean": 0.842, "std": 0.02, "std_splits": 0.013, "std_seeds": 0.004}
    assert format_percent(figure) == "84.2 ± 1.3 ± 0.4"
    assert format_percent({**figure, "std_seeds": None}) == "84.2 ± 2.0"


def columns(predictions: Any) -> tuple[Any, Any, Any]:
    return predictions.knownness, predictions.predicted_label, predictions.closed_set_label


def test_a_paired_bootstrap_draws_the_same_images_for_both() -> None:
    first, second = make_predictions(0, 2.0, 0), make_predictions(0, 1.0, 0)
    true = first.true_label
    found = paired_differences(columns(first), columns(second), true, 3, repeats=50, seed=4)
    again = paired_differences(columns(first), columns(first), true, 3, repeats=50, seed=4)
    assert all((differences == 0).all() for differences in again.values())
    # one resample of each side by itself, from the same seed
    alone = [bootstrap_intervals(*columns(side), true, 3, repeats=1, seed=4)["auroc"] for side in (first, second)]
    assert found["auroc"][0] == pytest.approx(alone[0][0] - alone[1][0])


def test_wilcoxon_needs_six_pairs() -> None:
    values = [0.1, 0.2, -0.05, 0.3, 0.25, 0.15]
    assert signed_rank(values) == pytest.approx(wilcoxon(values).pvalue)
    assert signed_rank(values[:5]) is None and signed_rank([0.0] * 6) is None


def test_the_interval_over_pairs_is_students() -> None:
    values = [0.01, 0.03, 0.02, 0.05]
    assert student_interval(values) == pytest.approx(ttest_1samp(values, 0).confidence_interval(0.95))
    assert student_interval(values[:2]) is None


def test_methods_of_several_runs_are_compared_in_pairs(
    method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run for each split, as sweeps leave them, and one of all splits: the same figures."""
    for split in "0123":
        method(tmp_path / f"strong-{split}", 3.0, splits=split)
        method(tmp_path / f"weak-{split}", 1.0, splits=split)
    first, second = str(tmp_path / "strong-*"), str(tmp_path / "weak-*")
    found = compare_pair(first, second, repeats=50)
    differences = [
        compare_pair(tmp_path / f"strong-{split}", tmp_path / f"weak-{split}", repeats=2)["metrics"]["auroc"][
            "difference"
        ]
        for split in "0123"
    ]
    assert found["pairs"] == 4 and found["metrics"]["auroc"]["difference"] == pytest.approx(np.mean(differences))
    assert found["metrics"]["auroc"]["over_pairs"] == pytest.approx(student_interval(differences))
    assert main(["compare", first, second, "--paired", "--name", "strong,weak"]) == 0
    heading, titles, *_ = capsys.readouterr().out.splitlines()
    assert heading == "strong minus weak, 4 pairs of the same split and seed; percent" and "over pairs from" in titles
    (tmp_path / "weak-3" / "split-3" / "metrics.json").unlink()  # is still being trained
    found = compare_pair(first, second, repeats=2)
    assert found["pairs"] == 3 and "left out, of one side only: split 3, seed 0" in found["notes"]


def test_two_runs_are_compared_in_pairs(method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same truth, so that images pair up: the generator of the classes is the seed's."""
    strong, weak = method(tmp_path / "strong", 3.0), method(tmp_path / "weak", 1.0)
    found = compare_pair(strong, weak, repeats=200)
    auroc = found["metrics"]["auroc"]
    assert found["pairs"] == 2 and auroc["wilcoxon_p"] is None
    assert auroc["difference"] == pytest.approx(auroc["first"] - auroc["second"])
    low, high = auroc["interval"]
    assert 0 < low < auroc["difference"] < high
    assert found == compare_pair(strong, weak, repeats=200)
    same = compare_pair(strong, strong, repeats=20)["metrics"]["oscr"]
    assert same["difference"] == 0 and same["interval"] == [0, 0]
    assert main(["compare", str(strong), str(weak), "--paired", "--name", "strong,weak"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("strong minus weak, 2 pairs") and lines[2].startswith("auroc")
    assert compare_pair(strong, weak / "split-1", repeats=20)["pairs"] == 1
    method(tmp_path / "other", 1.0, seed=1)
    for runs, message in (
        ([strong], "--paired is for two runs"), ([strong, tmp_path / "other"], "their test images or classes differ"),
        ([strong / "split-0", weak / "split-1"], "share no split and seed"),
        ([strong, tmp_path], "both have split 0, seed 0"),
    ):  # fmt: skip
        assert main(["compare", *map(str, runs), "--paired"]) == 2
        assert message in capsys.readouterr().err
    for folder in (strong, weak):  # as many images of the same classes, and other ones
        for file in folder.glob("split-*/metrics.json"):
            about = {**json.loads(file.read_text()), "data_fingerprints": {"test": folder.name}}
            file.write_text(json.dumps(about))
    with pytest.raises(UserError, match="their test images differ"):
        compare_pair(strong, weak)
    assert main(["compare", str(strong), str(weak), "--paired", "--sort", "auroc"]) == 2
    assert "--paired has a table of its own" in capsys.readouterr().err
