"""The picture of an architecture in its space: scales as rows, layers as columns; DOT, SVG and PNG.

Every position, arrow and label is computed here and written into the DOT text, so that the picture does not depend on a
layout engine: `graphviz-pure`, which installs with the package, draws it, or else the system's Graphviz.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from typing import Any

import graphviz

from nas_osr.errors import UserError
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, name_cell
from nas_osr.search_spaces.architectures.vector_pdf import convert_svg
from nas_osr.search_spaces.space import Cell

Point = tuple[float, float]

# Lengths are points, y grows upwards.
_GAP_X, _GAP_Y = 62.0, 40.0
_LINE, _TITLE_LINE = 16.0, 22.0
_NUMBER_WIDTH = 22.0
_TITLE_WIDTH = 260.0
_NAME = 24  # characters of an operation's name
_END_WIDTH, _END_HEIGHT = 52.0, 34.0
_ARROW = 7.0
_FONT = "Helvetica"
_SEPARATOR = "\u00a0\u00a0\u00b7\u00a0\u00a0"
_INK, _QUIET, _FAINT = "#1b2733", "#5f6b76", "#c3cad1"
_ACCENT, _ACCENT_FILL, _PLAIN_FILL, _END_FILL = "#1257a8", "#deebfa", "#fafbfc", "#eef1f4"


def draw(dot: str, format: str) -> bytes:
    """Draw DOT text whose positions are all fixed, as "svg", "pdf" or "png" (192 dots per inch). Raises UserError."""
    if format == "pdf":
        return convert_svg(draw(dot, "svg"))
    program = find_program()
    arguments = [program, "-Kneato", "-n2", f"-T{format}"] + (["-Gdpi=192"] if format == "png" else [])
    done = subprocess.run(arguments, input=dot.encode(), capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        reason = (done.stderr.decode(errors="replace").splitlines() or ["no output"])[0]
        raise UserError(f"{program} could not draw the picture: {reason}")
    return done.stdout


def draw_architecture(architecture: Architecture) -> str:
    """The picture of an architecture by itself, as SVG without what stands before its root. Raises UserError."""
    svg = draw(format_dot(architecture), "svg").decode()
    return svg[svg.index("<svg") :]


def find_program() -> str:
    """The drawing program: `graphviz-pure` of this Python or of PATH, else the system's `neato`. Raises UserError."""
    search_path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    for name in ("graphviz-pure", "neato", "dot"):
        program = shutil.which(name, path=search_path)
        if program is not None:
            return program
    raise UserError("no program to draw pictures with: pip install graphviz-pure, or install Graphviz")


def format_dot(architecture: Architecture, weights: ArchitectureWeights | None = None, sizes: str = "") -> str:
    """DOT text: chosen path and operations bold and blue, the rest faint, with alphas and betas where there are any.

    `sizes` is a line at the top right.
    """
    space, branches = architecture.space, architecture.space.ends
    picture = _Picture(space.layers, max(branches), space.operations)
    picture.add_captions(architecture, weights)
    picture.add_sizes(sizes)
    name = architecture.stem
    stem = "stem" if name == paper.STEM else _clip(name.rpartition(".")[2], 8) + "\nstem"
    picture.add_end("stem", stem, picture.stem)
    chosen, used = architecture.chosen_cells(), architecture.chosen_edges()
    for cell in space.cells:
        picture.add_cell(cell, chosen.get(cell), weights)
    for branch in branches:
        picture.add_end(f"head/{branch}", "heads" if len(branches) == 1 else f"1/{4 << branch}", picture.head(branch))

    for source, target in sorted(space.edges, key=used.__contains__):  # the bold ones come last
        beta = None
        if weights is not None and target in weights.beta:
            beta = weights.beta[target][0 if target[1] > source[1] else 1]
        lift = picture.cell_height / 4 if target[1] > source[1] else 0.0  # halving ones keep clear of the others
        start, end = picture.side(source, 1, -lift), picture.side(target, -1, lift)
        picture.add_edge(name_cell(source), name_cell(target), start, end, (source, target) in used, beta)
    picture.add_edge("stem", "0/0", (picture.stem[0] + _END_WIDTH / 2, picture.stem[1]), picture.side((0, 0), -1), True)
    for branch in branches:
        last, (x, y) = (space.layers - 1, branch), picture.head(branch)
        chosen_end = branch in architecture.branches
        ends = picture.side(last, 1), (x - _END_WIDTH / 2, y)
        picture.add_edge(name_cell(last), f"head/{branch}", *ends, chosen_end)
    return picture.dot.source


class _Picture:
    """What is drawn, and where it stands: points (x, y) from the centre of the cell of layer 0 at scale 0."""

    def __init__(self, layers: int, coarsest: int, operations: tuple[str, ...]) -> None:
        self.dot = graphviz.Digraph("architecture", comment="draw with: neato -n2 -Tsvg")
        self.dot.attr("graph", layout="neato", inputscale="72", splines="true", outputorder="edgesfirst")
        self.dot.attr("graph", bgcolor="white", pad="0.2", fontname=_FONT)
        self.dot.attr("node", fontname=_FONT, fontsize="11", fontcolor=_INK, fixedsize="true", margin="0")
        self.dot.attr("edge", fontname=_FONT, fontsize="10", arrowsize="0.7")
        self.names = _short_names(operations)
        self.name_width = max(52.0, *map(_width, self.names.values()))
        self.cell_width = self.name_width + _NUMBER_WIDTH + 16
        self.cell_height = _LINE * max(len(operations), 2) + 8
        self.step_x, self.step_y = self.cell_width + _GAP_X, self.cell_height + _GAP_Y
        to_end = self.cell_width / 2 + 38 + _END_WIDTH / 2
        self.stem = (-to_end, 0.0)
        self.heads_x = (layers - 1) * self.step_x + to_end
        self.left_x = self.stem[0] - _END_WIDTH / 2 - 104
        self.top = self.cell_height / 2
        self.bottom = -coarsest * self.step_y - self.cell_height / 2

    def centre(self, cell: Cell) -> Point:
        return cell[0] * self.step_x, -cell[1] * self.step_y

    def head(self, branch: int) -> Point:
        return self.heads_x, -branch * self.step_y

    def side(self, cell: Cell, sign: int, lift: float = 0.0) -> Point:
        """The middle of a cell's left (-1) or right (1) side, or `lift` above it."""
        x, y = self.centre(cell)
        return x + sign * self.cell_width / 2, y + lift

    def add_box(self, name: str, label: str, centre: Point, size: Point, **style: str) -> None:
        """A node of this size in points."""
        width, height = (f"{length / 72:.4f}" for length in size)  # in inches
        self.dot.node(name, label, pos=_pair(centre) + "!", width=width, height=height, **style)

    def add_cell(self, cell: Cell, chosen: str | None, weights: ArchitectureWeights | None) -> None:
        """A cell with its operations' alphas, the chosen one bold; without weights only the chosen operation."""
        style = {"style": "rounded,filled,dashed", "color": _FAINT, "fillcolor": _PLAIN_FILL, "penwidth": "1"}
        if chosen is not None:
            style = {"style": "rounded,filled", "color": _ACCENT, "fillcolor": _ACCENT_FILL, "penwidth": "2.2"}
        label = ""
        if weights is not None:
            rows = []
            for (name, shown), alpha in zip(self.names.items(), weights.alpha[cell], strict=True):
                bold, color = name == chosen, _ACCENT if name == chosen else _QUIET
                number = _markup(f"{alpha:.2f}", color, 10, bold)
                rows.append([(self.name_width, _markup(shown, color, 11, bold)), (_NUMBER_WIDTH, number)])
            label = _table(rows)
        elif chosen is not None:
            label = f"<{_markup(self.names[chosen], _ACCENT, 13, bold=True)}>"
        size = (self.cell_width, self.cell_height)
        self.add_box(name_cell(cell), label, self.centre(cell), size, shape="box", **style)

    def add_end(self, name: str, label: str, centre: Point) -> None:
        """The stem, or where an output leaves."""
        style = {"shape": "box", "style": "filled", "color": _QUIET, "fillcolor": _END_FILL, "penwidth": "1.2"}
        self.add_box(name, label, centre, (_END_WIDTH, _END_HEIGHT), **style)

    def add_edge(
        self, source: str, target: str, start: Point, end: Point, bold: bool, beta: float | None = None
    ) -> None:
        """An arrow from point to point, level at both ends, with its beta beside the middle."""
        (x0, y0), (x1, y1) = start, end
        tip, x1 = x1, x1 - _ARROW
        bend = (x1 - x0) * 0.55
        points = [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
        position = f"e,{_pair((tip, y1))} " + " ".join(map(_pair, points))
        style = {"color": _ACCENT, "penwidth": "2.6"} if bold else {"color": _FAINT, "penwidth": "1"}
        if beta is not None:
            beside = (16.0, 0.0) if y0 != y1 else (0.0, 8.0)
            place = ((x0 + x1) / 2 + beside[0], (y0 + y1) / 2 + beside[1])
            text = _markup(f"{beta:.2f}", _ACCENT if bold else _QUIET, 10, bold)
            style |= {"label": f"<{text}>", "lp": _pair(place)}
        self.dot.edge(source, target, pos=position, **style)

    def add_captions(self, architecture: Architecture, weights: ArchitectureWeights | None) -> None:
        """Title, layer numbers above, scales on the left, the legend and the choices of the network below."""
        space, weighted = architecture.space, weights is not None
        right_x = self.heads_x + _END_WIDTH / 2
        title, subtitle = (_clip(text, int((right_x - self.left_x) / 6)) for text in _titles(architecture.found))
        width = right_x - self.left_x
        self.add_text("title", _markup(title, _INK, 16, bold=True), self.left_x, self.top + 60, width, _TITLE_LINE)
        if subtitle:
            self.add_text("subtitle", _markup(subtitle, _QUIET, 11), self.left_x, self.top + 40, width)
        for layer in range(space.layers):
            name, (x, _) = f"layer {layer}", self.side((layer, 0), -1)
            self.add_text(name, _markup(name, _QUIET, 11), x, self.top + 14, self.cell_width, align="CENTER")
        for scale in range(max(space.ends) + 1):
            _, y = self.centre((0, scale))
            self.add_text(
                f"scale {scale}", _markup(f"scale 1/{4 << scale}", _INK, 12, bold=True), self.left_x, y + 8, 100
            )
            channels = f"{architecture.channels(scale)} channels"
            self.add_text(f"channels {scale}", _markup(channels, _QUIET, 11), self.left_x, y - 8, 100)
        legend = ["dashed: not chosen"] + weighted * ["in a cell: alpha of each operation", "on an arrow: beta"]
        below, indent = self.bottom - 28, 88.0
        self.add_text("legend chosen", _markup("blue: chosen", _ACCENT, 11, bold=True), self.left_x, below, indent)
        others = _markup(_SEPARATOR.join(legend), _QUIET, 11)
        self.add_text("legend", others, self.left_x + indent, below, width - indent)
        if architecture.choices:
            choices = _clip(_SEPARATOR.join(_choices(architecture, weights)), int(width / 6))
            self.add_text("choices", _markup(choices, _ACCENT, 11), self.left_x, below - 20, width)

    def add_sizes(self, text: str) -> None:
        """How large the network is, at the top right."""
        if text:
            width = 6.0 * len(text)
            right = self.heads_x + _END_WIDTH / 2
            above = 60 if right - self.left_x > width + _TITLE_WIDTH else 82  # beside the title where there is room
            self.add_text("sizes", _markup(text, _QUIET, 11), right - width, self.top + above, width, align="RIGHT")

    def add_text(
        self, name: str, markup: str, left: float, y: float, width: float, height: float = _LINE, align: str = "LEFT"
    ) -> None:
        """A line of text in a box of this width that starts at `left`, centred on y."""
        label = _table([[(width, markup)]], height, align)
        self.add_box(name, label, (left + width / 2, y), (width, height), shape="plaintext")


def _titles(found: dict[str, Any]) -> tuple[str, str]:
    """Title and subtitle from what is known of the search."""
    title = "Architecture"
    score = found.get("F1")
    if isinstance(score, float):
        title += f"{_SEPARATOR}F1 {score:.3f}"
    names = [found[key] for key in ("strategy", "objective", "rule", "protocol") if isinstance(found.get(key), str)]
    names += [f"{key} {found[key]}" for key in ("split", "seed") if isinstance(found.get(key), int)]
    if isinstance(found.get("epoch"), int):
        names.append(f"epoch {found['epoch'] + 1}")  # files count from 0, people from 1
    return title, _SEPARATOR.join(_clip(name, 32) for name in names)


def _choices(architecture: Architecture, weights: ArchitectureWeights | None) -> list[str]:
    """What is chosen of the network as a whole, with its gamma where there is one."""
    found = []
    for name, candidates in architecture.space.choices.items():
        value = architecture.choices[name]
        shown = f"1/{4 << value}" if name == "output" else str(value).rpartition(".")[2] if name == "stem" else value
        gamma = "" if weights is None else f" ({weights.gamma[name][candidates.index(value)]:.2f})"
        if name.startswith("width_"):
            name = f"width at 1/{4 << int(name.removeprefix('width_'))}"
        found.append(f"{name} {shown}{gamma}")
    return found


def _table(rows: Sequence[Sequence[tuple[float, str]]], height: float = _LINE, align: str = "LEFT") -> str:
    """Rows of cells, each a width and what stands in it."""
    size = f'HEIGHT="{height:.0f}" FIXEDSIZE="TRUE" ALIGN="{align}"'
    cells_of = ("".join(f'<TD WIDTH="{width:.0f}" {size}>{markup}</TD>' for width, markup in row) for row in rows)
    body = "".join(f"<TR>{row}</TR>" for row in cells_of)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">{body}</TABLE>>'


def _markup(text: str, color: str, size: int, bold: bool = False) -> str:
    """Markup for text that may hold anything; unprintable characters, and Graphviz's own \\, become question marks."""
    kept = "".join(c if (c.isprintable() or c == "\u00a0") and c != "\\" else "?" for c in text)
    face = 'FACE="Helvetica-Bold" ' if bold else ""
    return f'<FONT {face}COLOR="{color}" POINT-SIZE="{size}">{html.escape(kept)}</FONT>'


def _short_names(operations: Sequence[str]) -> dict[str, str]:
    """Plug-ins by their class, or by their whole path where two classes share a name; long ones lose their middle."""
    classes = [name.rpartition(".")[2] for name in operations]
    shown = {}
    for name, own in zip(operations, classes, strict=True):
        text = own if classes.count(own) == 1 else name
        shown[name] = text if len(text) <= _NAME else f"{text[: _NAME // 2 - 1]}\u2026{text[-_NAME // 2 :]}"
    return shown


def _width(text: str) -> float:
    """About the width in points of bold text of size 11, rather too much than too little."""
    return 1.0 * sum(10.5 if character in "mwMW" else 8.0 if character.isupper() else 6.8 for character in text)


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _pair(point: Point) -> str:
    return f"{point[0]:.2f},{point[1]:.2f}"
