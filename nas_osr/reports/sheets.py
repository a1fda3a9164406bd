"""Tables of text, and how they are written: aligned, as Markdown, as LaTeX for `booktabs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

SheetFormat = Literal["table", "markdown", "latex"]
_WRITTEN = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_ESCAPES = str.maketrans(_WRITTEN | {sign: f"\\{sign}" for sign in "&%$#_{}"})


@dataclass(frozen=True)
class Sheet:
    """A table of text, and which of its cells are the best."""

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    ranks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    "by line and column: 1 of the best cell, 2 of the second."
    sections: Mapping[int, str] = field(default_factory=dict)
    "by the line that it stands before, what the lines from there on have in common."
    notes: Sequence[str] = ()
    "what its marks mean, a line each."
    title: str = ""


def write_sheet(sheet: Sheet, form: SheetFormat) -> str:
    """The text of a table in a form; LaTeX marks the best cell bold and underlines the second.

    A cell is one line, whatever a user calls a run.
    """
    lines = [[" ".join(cell.splitlines()) for cell in row] for row in sheet.lines]
    sheet = replace(sheet, headings=[" ".join(cell.splitlines()) for cell in sheet.headings], lines=lines)
    write = {"table": aligned_lines, "markdown": markdown_lines, "latex": latex_lines}[form]
    return "\n".join(write(sheet))


def aligned_lines(sheet: Sheet) -> Iterator[str]:
    """Columns as wide as their widest cell."""
    if sheet.title:
        yield sheet.title
    rows = [sheet.headings, *sheet.lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from ["", *sheet.notes] if sheet.notes else []


def markdown_lines(sheet: Sheet) -> Iterator[str]:
    """A table for GitHub and the like."""
    if sheet.title:
        yield from (f"**{sheet.title}**", "")
    for row in [sheet.headings, ["---"] * len(sheet.headings), *sheet.lines]:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield from ["", *(note.replace("*", r"\*", 1) for note in sheet.notes)] if sheet.notes else []


def latex_lines(sheet: Sheet) -> Iterator[str]:
    """A tabular environment; the title and the notes are comments."""
    for text in ("needs \\usepackage{booktabs}", sheet.title, *sheet.notes):
        if text:
            yield f"% {text}"
    yield f"\\begin{{tabular}}{{l{'c' * (len(sheet.headings) - 1)}}}"
    yield "\\toprule"
    yield f"{' & '.join(map(escape_latex, sheet.headings))} \\\\"
    yield "\\midrule"
    for number, row in enumerate(sheet.lines):
        if number in sheet.sections:
            if number:
                yield "\\addlinespace"
            yield f"\\multicolumn{{{len(row)}}}{{l}}{{\\textit{{{escape_latex(sheet.sections[number])}}}}} \\\\"
        cells = []
        for column, cell in enumerate(row):
            text = escape_latex(cell)
            rank = sheet.ranks.get((number, column))
            cells.append(f"\\textbf{{{text}}}" if rank == 1 else f"\\underline{{{text}}}" if rank == 2 else text)
        yield f"{' & '.join(cells)} \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(_ESCAPES)
