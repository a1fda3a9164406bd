"""`nas-osr report RUN...`: one HTML page about runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nas_osr.cli.plot import named_runs
from nas_osr.configuration import Checked, DataPath, UserPath
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file


@dataclass
class ReportRequest(Checked):
    """Write one HTML page about runs: what was asked, the answer in a sentence, the network, figures, metrics with
    their intervals, the most confident mistakes, and the configuration to copy.

    The page is one file that loads nothing from elsewhere: it can be mailed, printed and read on a phone. A search, a
    retraining, a sweep, a table and several retrainings side by side each have a chapter of their own.
    """

    runs: list[str] = field(default_factory=list)
    "run folders, sweeps, tables, folders that hold several retrainings, or patterns in quotes."
    out: UserPath = "report.html"
    "file of the page."
    name: list[str] = field(default_factory=list)
    "what the runs are called, in their order; their folders' names when not given."
    title: str | None = None
    "of the page; the runs' names when not given."
    data_dir: DataPath | None = None
    "folder of the images, where it is not the run's; the mistakes are shown from it."


def report(request: ReportRequest, command: Sequence[str]) -> None:
    """Write the page and say where it is. Raises UserError."""
    if not request.runs:
        raise UserError("report: name a run folder after it, such as: nas-osr report runs/retrain --out report.html")
    out = user_path(request.out)
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"{out}: the name of a report must end in .html")
    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder does not exist")
    runs = named_runs(request.runs, request.name, "report")
    from nas_osr.reports.report_of_runs import report_of

    page = report_of(runs, title=request.title, data_dir=request.data_dir)
    with replace_file(out) as file:
        file.write(page.encode())
    print(f"wrote {out}")
