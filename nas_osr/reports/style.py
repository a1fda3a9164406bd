"""The one look of all figures: colours, lines and sizes for a paper, and files whose bytes are equal for equal figures.

Colours are told apart by the colour-blind (after Okabe and Ito), and never carry a meaning alone: each has a line style
and a marker of its own, so that figures can be read in grey.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file

P = ParamSpec("P")

#: Of the architecture picture, too.
INK, QUIET, FAINT, BLUE = "#1b2733", "#5f6b76", "#c3cad1", "#1257a8"
#: What stands for the unknown everywhere.
UNKNOWN = "#d55e00"
COLOURS = (BLUE, UNKNOWN, "#009e73", "#8e4a9e", "#56b4e9", "#b58900", INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: White to blue, and darker still.
BLUES = LinearSegmentedColormap.from_list("nas-osr", ["#ffffff", "#deebfa", "#7fabdc", BLUE, "#0a2f5c"])

#: Widths in inches: of a column of a two-column paper, and of its page.
COLUMN, PAGE = 3.35, 6.9
FORMATS = ("svg", "pdf", "png")
PIXELS = 220  # an inch, of a PNG

STYLE: Any = {
    "axes.axisbelow": True, "axes.edgecolor": QUIET, "axes.grid": True, "axes.labelcolor": INK, "axes.labelsize": 8,
    "axes.linewidth": 0.7, "axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left",
    "axes.titlesize": 8, "axes.titleweight": "bold", "figure.constrained_layout.use": True, "figure.dpi": 100,
    "font.family": "DejaVu Sans", "font.size": 8, "grid.alpha": 0.55, "grid.color": FAINT, "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6, "legend.borderpad": 0.3, "legend.fontsize": 7, "legend.framealpha": 0.9,
    "legend.edgecolor": "none", "legend.handlelength": 2.4, "lines.linewidth": 1.5, "lines.markersize": 4,
    "pdf.fonttype": 42, "savefig.dpi": PIXELS, "svg.fonttype": "none", "svg.hashsalt": "nas-osr",
    "text.color": INK, "xtick.color": QUIET, "xtick.labelcolor": INK, "xtick.labelsize": 7, "ytick.color": QUIET,
    "ytick.labelcolor": INK, "ytick.labelsize": 7,
}  # fmt: skip


class Look(NamedTuple):
    """What tells one method, class or term from the others."""

    color: str
    linestyle: Any
    marker: str


def looks() -> Iterator[Look]:
    """As many looks as are wanted: the first seven differ in everything, the first 49 in their combination."""
    size = len(COLOURS)
    for number in count():
        other = (number + number // size) % size
        yield Look(COLOURS[number % size], DASHES[other], MARKERS[other])


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the one style, whatever the user's own matplotlib settings are."""

    @functools.wraps(draw)
    def call(*values: P.args, **options: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*values, **options)

    return call


def new_figure(columns: int, height: float) -> Figure:
    """An empty figure as wide as one or two columns of a paper; its height is a share of its width."""
    width = COLUMN if columns == 1 else PAGE
    return Figure(figsize=(width, width * height), layout="constrained")


def one_axes(columns: int, height: float = 0.8) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; see `new_figure`."""
    figure = new_figure(columns, height)
    return figure, figure.add_subplot()


def panels(number: int, columns: int, height: float = 0.8) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, one or three beside each other (two where that fills the rows).

    Args:
        height: of a panel, as a share of its width.
    """
    across = min(number, 1 if columns == 1 else 2 if number in (2, 4) else 3)
    rows = math.ceil(number / across)
    figure = new_figure(columns, height * rows / across)
    axes = figure.subplots(rows, across, squeeze=False).flatten().tolist()
    for empty in axes[number:]:
        empty.remove()
    return figure, axes[:number]


def shares(axes: Axes, x: str = "", y: str = "") -> None:
    """Label axes whose named sides are shares in [0, 1]."""
    if x:
        axes.set(xlabel=x, xlim=(-0.01, 1.01))
    if y:
        axes.set(ylabel=y, ylim=(-0.01, 1.01))


def whole_ticks(axis: Any, most: int = 7) -> None:
    """Only whole numbers beside an axis that counts something."""
    axis.set_major_locator(MaxNLocator(most, integer=True))


def check_file(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Path:
    """The path of a figure; UserError where it cannot be one, said before anything is computed."""
    path = user_path(path)
    if path.suffix[1:] not in formats:
        raise UserError(f"{path}: the name of a picture must end in {' or '.join(f'.{name}' for name in formats)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: its folder does not exist")
    return path


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as SVG or PDF (with text as text) or as PNG; equal figures give equal bytes. Raises UserError."""
    path = check_file(path)
    kind = path.suffix[1:]
    undated: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with rc_context(STYLE), replace_file(path) as file:
        figure.savefig(file, format=kind, metadata=undated[kind])
    return path
