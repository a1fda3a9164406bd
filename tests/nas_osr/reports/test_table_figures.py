"""Figures of tables: what is drawn are the figures of `nas-osr table`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.reports import table_figures
from nas_osr.reports.table_figures import plot_criteria, plot_regret, plot_spread
from nas_osr.strategies.table import read_table, write_table
from nas_osr.strategies.table_report import compare_strategies, correlate
from nas_osr.strategies.table_trials import Conditions

SHIPPED = Path(__file__).parents[3] / "docs" / "results" / "tables" / "tiny-digits.jsonl.xz"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the shipped table, of every ninth architecture."""
    whole, path = read_table(SHIPPED), tmp_path_factory.mktemp("table") / "part.jsonl.xz"
    header = {name: value for name, value in whole.header.items() if name not in ("table", "schema")}
    write_table(path, {**header, "complete": False}, whole.rows[::9])
    return path


def test_the_spread_of_two_tables(part: Path) -> None:
    [axes] = plot_spread([SHIPPED, part]).axes
    whole, few = axes.lines
    assert [line.get_label() for line in axes.lines] == ["tiny-digits, 171", "part, 19"]
    means = 100 * read_table(SHIPPED).true("mls", "auroc")[:, :, -1].mean(axis=1)
    np.testing.assert_allclose(whole.get_ydata(), sorted(means, reverse=True))
    np.testing.assert_allclose(few.get_ydata(), sorted(means[::9], reverse=True))
    # what is known of this space: seeds alone make such a spread, so that nearly all of the line is in the band
    band = axes.collections[0].get_paths()[0].vertices
    inside = [
        band[np.isclose(band[:, 0], x), 1].min() <= y <= band[np.isclose(band[:, 0], x), 1].max()
        for x, y in np.asarray(whole.get_xydata()).tolist()
    ]
    assert np.mean(inside) > 0.9


def test_a_folder_and_its_file_of_one_name_are_both_drawn(part: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for copy in (tmp_path / "part.jsonl.xz", tmp_path / "part" / "table.jsonl.xz"):
        copy.write_bytes(part.read_bytes())
    [axes] = plot_spread([tmp_path / "part", tmp_path / "part.jsonl.xz"]).axes
    assert [line.get_label() for line in axes.lines] == ["part, 19", "part.jsonl.xz, 19"]


def test_criteria_are_those_of_the_table(part: Path) -> None:
    [axes] = plot_criteria({"all": SHIPPED, "some": part}).axes
    expected = correlate(read_table(SHIPPED), "mls")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == list(expected)[:12][::-1]
    bars = axes.containers[0]
    np.testing.assert_allclose(bars[0].get_xdata(), [expected[name][0] for name in names])
    ends = np.array([segment[:, 0] for segment in bars[2][0].get_segments()])
    np.testing.assert_allclose(ends, [expected[name][1:] for name in names])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tables_of_next_to_nothing(count: int, tmp_path: Path) -> None:
    whole, path = read_table(SHIPPED), tmp_path / "few.jsonl.xz"
    header = {name: value for name, value in whole.header.items() if name not in ("table", "schema")}
    write_table(path, {**header, "complete": False}, whole.rows[:count])
    assert plot_spread(path).axes
    if count > 1:
        assert plot_criteria(path).axes
        return
    with pytest.raises(UserError, match="plot criteria: few: nothing differs between its architectures"):
        plot_criteria(path)
    write_table(path, header, whole.rows[:1])
    with pytest.raises(UserError, match="plot regret: few: it has one architecture"):
        plot_regret(path)


def test_a_table_of_one_seed_has_no_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, path = read_table(SHIPPED), tmp_path / "one.jsonl.xz"
    header = {name: value for name, value in whole.header.items() if name not in ("table", "schema")}

    def first(row: dict[str, Any]) -> dict[str, Any]:
        true = {rule: {name: seeds[:1] for name, seeds in own.items()} for rule, own in row["true"].items()}
        return {**row, "true": true}

    write_table(path, {**header, "complete": False, "seeds": 1}, [first(dict(row)) for row in whole.rows[:4]])
    [axes] = plot_spread(path).axes
    assert axes.lines and not axes.collections
    assert main(["report", str(path), "--out", str(tmp_path / "page.html")]) == 0
    assert main(["table", str(path)]) == 0
    figures = capsys.readouterr().out.splitlines()
    (place,) = [number for number, line in enumerate(figures) if line.split()[-2:] == ["noise", "between"]]
    assert figures[place + 1].split()[-2:] == ["-", "-"]


def test_regret_is_the_table_s(part: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table_figures, "SEARCHES", 3)
    monkeypatch.setattr(table_figures, "COSTS", (2, 4, 500))
    [axes] = plot_regret(SHIPPED, metric="f1").axes
    table = read_table(SHIPPED)
    found = dict(compare_strategies(table, ["random"], {"criterion": "f1"}, Conditions("mls", 1), [2, 4], 3))
    assert [line.get_label() for line in axes.lines] == ["random", "evolution", "halving", "nsga"]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [2, 4])
    expected = [100 * found["random"][cost]["regret"][0] for cost in ("2", "4")]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    [axes] = plot_regret(part, metric="f1").axes  # a sample
    assert [line.get_label() for line in axes.lines] == ["random", "halving"]
    with pytest.raises(UserError, match="shows one table, got 2"):
        plot_regret([SHIPPED, part])
    assert main(["plot", "regret", str(SHIPPED), "--metric", "speed", "--out", str(tmp_path / "no.svg")]) == 2
    assert main(["plot", "spread", str(tmp_path / "nothing.xz"), "--out", str(tmp_path / "no.svg")]) == 2


def test_a_report_takes_the_file_of_a_table(part: Path, tmp_path: Path) -> None:
    assert main(["report", str(part), "--out", str(tmp_path / "page.html")]) == 0
    assert "19, a sample of the space" in (tmp_path / "page.html").read_text()
