"""What an HTML report is made of, and how it becomes one file that needs no network.

Everything that comes from a run is escaped by the template; figures are parsed and written again (`inline_svg`), and
the page's own policy lets a browser run no script but the one that copies texts, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, ClassVar, TypeAlias
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

import nas_osr
from nas_osr.reports.style import BLUE, FAINT, INK, QUIET, STYLE

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
#: Colours of figures and of the architecture picture that the dark page has others for, and their names in report.css.
THEME = {
    INK: "ink", QUIET: "quiet", FAINT: "faint", BLUE: "blue", "#ffffff": "paper", "white": "paper", "#8e4a9e": "violet",
    "#56b4e9": "sky", "#deebfa": "pale-blue", "#fafbfc": "raised", "#eef1f4": "sunken", "black": "ink",
}  # fmt: skip
_COLOURS = re.compile("|".join(map(re.escape, THEME)))


@dataclass(frozen=True)
class Remark:
    """A paragraph; a quiet one says what is not shown, and why."""

    kind: ClassVar[str] = "remark"
    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    items: Mapping[str, str]


@dataclass(frozen=True)
class DataTable:
    """A table of text; see `nas_osr.reports.sheets.Sheet`."""

    kind: ClassVar[str] = "table"
    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    ranks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure with what it shows."""

    kind: ClassVar[str] = "drawing"
    title: str
    caption: str
    svg: Markup
    wide: bool = False
    fixed: bool = False
    "whether its colours stay as they are on a dark page: what lies on pictures."


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, and what is said of it."""

    source: str
    true: str
    given: str


@dataclass(frozen=True)
class Strip:
    """Small pictures in a row."""

    kind: ClassVar[str] = "strip"
    title: str
    pictures: Sequence[Thumbnail]


@dataclass(frozen=True)
class Listing:
    """A text to copy; a long one is folded."""

    kind: ClassVar[str] = "listing"
    title: str
    text: str


Block: TypeAlias = Remark | Facts | DataTable | Drawing | Strip | Listing


@dataclass(frozen=True)
class Passage:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Chapter:
    """What there is to say of a run, a sweep or a comparison."""

    kind: str
    'such as "search".'
    title: str
    answer: str
    "in one sentence."
    passages: Sequence[Passage]


def write_page(title: str, chapters: Sequence[Chapter]) -> str:
    """One self-contained HTML page; equal chapters give equal bytes."""
    script = read_template("report.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment().from_string(read_template("report.html"))
    return page.render(
        title=title, chapters=chapters, css=Markup(read_template("report.css")), script=Markup(script),  # noqa: S704
        allowed=allowed, version=nas_osr.__version__,
    )  # fmt: skip


def write_fragment(answer: str, blocks: Sequence[Block]) -> str:
    """A sentence and blocks for a notebook: no script, no page around it."""
    fragment = environment().from_string(read_template("fragment.html"))
    return fragment.render(answer=answer, blocks=blocks, css=Markup(read_template("report.css")))  # noqa: S704


@cache
def environment() -> Environment:
    """jinja2 with escaping, and with the templates of this room."""
    from jinja2 import FunctionLoader

    return Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(read_template), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def read_template(name: str) -> str:
    """The text of a file of `templates/`."""
    return (resources.files("nas_osr.reports") / "templates" / name).read_text(encoding="utf-8")


def draw_figure(title: str, caption: str, figure: Figure, *, fixed: bool = False) -> Drawing:
    """A matplotlib figure as a block."""
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    wide = figure.get_figwidth() > 4.5
    return Drawing(title, caption, inline_svg(file.getvalue(), title, themed=not fixed), wide, fixed)


def inline_svg(svg: bytes, name: str, *, themed: bool = True) -> Markup:
    """An SVG to stand inside a page: named for screen readers, its ids its own, its colours the page's.

    Args:
        svg: as matplotlib or graphviz-pure has just drawn it; texts in it are escaped again.
        name: what a screen reader calls it.
        themed: whether the colours of `THEME` follow the page's.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314 - of the program that has just drawn it
    own = f"f{hashlib.sha256(name.encode() + svg).hexdigest()[:8]}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style", f"{{{SVG}}}title"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = own + value
            elif key in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
                value = f"#{own}{value[1:]}"
            elif "url(#" in value:
                value = value.replace("url(#", f"url(#{own}")
            if themed and key in ("style", "fill", "stroke"):
                value = _COLOURS.sub(lambda found: f"var(--{THEME[found[0]]})", value)
            element.set(key, value)
    size = [float(root.attrib[side].removesuffix("pt")) for side in ("width", "height")]
    attributes: dict[str, Any] = {"role": "img", "aria-label": name, "style": f"width: {size[0] * 4 / 3:.0f}px"}
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib.update(attributes)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - texts have just been escaped
