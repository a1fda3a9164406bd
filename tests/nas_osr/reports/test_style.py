"""Files of figures: equal bytes, text as text, sizes of a column, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest

from nas_osr.errors import UserError
from nas_osr.reports.detection import plot_roc
from nas_osr.reports.style import COLOURS, COLUMN, PAGE, check_file, looks, save_figure


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_equal_figures_give_equal_bytes(kind: str, method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    first = save_figure(plot_roc(run), tmp_path / f"a.{kind}").read_bytes()
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None}):  # a user's own settings
        assert save_figure(plot_roc(run), tmp_path / f"b.{kind}").read_bytes() == first
    other = method(tmp_path / "other", shift=0.5)
    assert save_figure(plot_roc(other), tmp_path / f"c.{kind}").read_bytes() != first


def test_text_is_text_and_sizes_are_those_of_a_paper(method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    drawn = save_figure(plot_roc({"my method": run}), tmp_path / "roc.svg").read_text()
    assert "my method  AUROC" in drawn and "<text" in drawn and "<dc:date>" not in drawn
    assert plot_roc(run).get_figwidth() == COLUMN and plot_roc(run, columns=2).get_figwidth() == PAGE
    assert b"/Subtype /Type3" not in save_figure(plot_roc(run), tmp_path / "roc.pdf").read_bytes()


def test_looks_differ_in_more_than_colour() -> None:
    first = [look for look, _ in zip(looks(), COLOURS, strict=False)]
    assert len({look.color for look in first}) == len({look.marker for look in first}) == len(COLOURS)
    assert len({str(look.linestyle) for look in first}) >= len(COLOURS) - 1
    many = [look for look, _ in zip(looks(), range(40), strict=False)]
    assert len({(look.color, look.marker) for look in many}) == len(many)


def test_strange_files_are_refused(tmp_path: Path) -> None:
    for name, message in (("x.bmp", "must end in .svg or .pdf or .png"), ("none/x.svg", "its folder does not exist")):
        with pytest.raises(UserError, match=message):
            check_file(tmp_path / name)
