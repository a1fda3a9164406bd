"""The picture of an architecture as PDF: what `graphviz-pure` and Graphviz write as SVG, drawn again by matplotlib.

Only what such an SVG holds is read: polygons, paths of straight lines and cubic curves, and texts.
"""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

NAMESPACE = "{http://www.w3.org/2000/svg}"
FONT, NARROWER = "DejaVu Sans", 0.86  # which comes with matplotlib, at the width of the Helvetica that is asked for


def convert_svg(svg: bytes) -> bytes:
    """A PDF of the same size with the same shapes, text as text; the same bytes for the same SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    root = ElementTree.fromstring(svg)  # noqa: S314 - of the program that has just drawn it
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    [graph] = root.findall(f"{NAMESPACE}g")
    moved = re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", graph.attrib["transform"])
    assert moved is not None
    shift = float(moved[1]) - left, float(moved[2]) - top
    # whole points; a point of the SVG is one of the paper
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-shift[0], width - shift[0]), ylim=(height - shift[1], -shift[1]))
    axes.set_axis_off()
    for order, element in enumerate(graph.iter()):
        tag, given = element.tag.removeprefix(NAMESPACE), element.attrib
        if tag == "text":
            axes.text(float(given["x"]), float(given["y"]), element.text or "", zorder=order, **text_style(given))
        elif tag == "polygon":
            corners = [tuple(map(float, pair.split(","))) for pair in given["points"].split()]
            axes.add_patch(Polygon(corners, zorder=order, **shape_style(given)))
        elif tag == "path":
            axes.add_patch(PathPatch(Path(*read_path(given["d"])), zorder=order, **shape_style(given)))
    file = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()


def read_path(text: str) -> tuple[list[tuple[float, float]], list[int]]:
    """The points of a path of M, L and C with absolute coordinates, and matplotlib's code of each."""
    codes = {"M": 1, "L": 2, "C": 4}
    points: list[tuple[float, float]] = []
    kinds: list[int] = []
    for letter, numbers in re.findall(r"([MLC])([^MLCZz]*)", text):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        pairs = list(zip(values[::2], values[1::2], strict=True))
        points += pairs
        kinds += [codes[letter]] * len(pairs)
    return points, kinds


def shape_style(given: dict[str, str]) -> dict[str, Any]:
    """Fill and stroke as a patch of matplotlib takes them."""
    dashes = given.get("stroke-dasharray")
    return {
        "facecolor": given.get("fill", "none"),
        "edgecolor": given.get("stroke", "none"),
        "linewidth": float(given.get("stroke-width", 1)),
        "linestyle": (0, tuple(map(float, dashes.split(",")))) if dashes else "-",
    }


def text_style(given: dict[str, str]) -> dict[str, Any]:
    """Colour, size and place of a text."""
    aligned = {"start": "left", "middle": "center", "end": "right"}[given.get("text-anchor", "start")]
    size = NARROWER * float(given["font-size"])
    weight = given.get("font-weight", "normal")
    return {
        "color": given.get("fill", "black"), "fontsize": size, "fontweight": weight, "fontfamily": FONT,
        "ha": aligned, "va": "baseline", "parse_math": False,
    }  # fmt: skip
