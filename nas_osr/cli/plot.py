"""`nas-osr plot KIND RUN...`: figures of finished runs, ready for a paper."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

from nas_osr.configuration import Checked, DataPath, UserPath
from nas_osr.errors import UserError, suggest
from nas_osr.option_docs import Choices, Range
from nas_osr.plugins import load
from nas_osr.reports import FIGURES

if TYPE_CHECKING:
    from nas_osr.reports.shown_runs import Runs


@dataclass
class PlotRequest(Checked):
    """Draw a figure of finished runs, from what their folders hold; `nas-osr plot` by itself lists the kinds.

    The file is vector graphics with text as text (.svg, .pdf), or .png, as wide as one or two columns of a paper. Equal
    runs give equal bytes.
    """

    kind: Annotated[str | None, Choices(FIGURES)] = None
    "what is shown."
    runs: list[str] = field(default_factory=list)
    "run folders, folders that hold several, or patterns in quotes."
    out: UserPath | None = None
    "file of the figure: .svg, .pdf or .png; KIND.svg when not given."
    name: list[str] = field(default_factory=list)
    "what the above are called in the figure; retrainings of one name are one method. Folders' names when not given."
    label: str | None = None
    "results that `evaluate` left as metrics-LABEL.json, under another rule or unknown source."
    columns: Annotated[int | None, Range(1, 2)] = None
    "columns of a paper that the figure is as wide as."
    accepted: bool = False
    "confusion: only of the images that are not rejected."
    closed: bool = False
    "confusion: ignore the threshold: the most likely known class of each image."
    features: Annotated[str | None, Choices(("embedding", "pooled", "logits"))] = None
    "embedding: what is shown; logits have CAC's anchors."
    method: Annotated[str | None, Choices(("pca", "tsne"))] = None
    "embedding: how it comes to a plane; pca when not given."
    against: str | None = None
    """openness: openness_cac (default), openness_gradmix, unknown_classes; pareto: parameters
    (default), macs; trials: these, memory, latency."""
    metric: str | None = None
    "bars, sensitivity, pareto: which one; auroc when not given. trials, regret: f1, auroc or oscr."
    setting: str | None = None
    "sensitivity: the option, such as objective_config.anchor_weight; the only one that differs when not given."
    count: Annotated[int | None, Range(1, 20)] = None
    "mistakes: images of each kind; 8 when not given."
    data_dir: DataPath | None = None
    "mistakes: folder of the images, where it is not the run's."


def plot(request: PlotRequest, command: Sequence[str]) -> None:
    """Draw what is asked for and say where it is; without a kind, list them."""
    if request.kind is None:
        width = max(map(len, FIGURES)) + 2
        print("\n".join(f"{kind:<{width}}{about}" for kind, (_, about) in FIGURES.items()))
        return
    if request.kind not in FIGURES:
        raise UserError(f"plot: no kind {request.kind}{suggest(request.kind, FIGURES, instead='choose from')}")
    if not request.runs:
        raise UserError(f"plot {request.kind}: name a run folder after it")
    draw = load(FIGURES[request.kind][0])
    options = chosen_options(request, draw)
    from nas_osr.reports.style import check_file, save_figure

    runs = named_runs(request.runs, request.name, f"plot {request.kind}")
    out = check_file(request.out or f"{request.kind}.svg")
    print(f"wrote {save_figure(draw(runs, **options), out)}")


def chosen_options(request: PlotRequest, draw: Callable[..., Any]) -> Mapping[str, Any]:
    """What is given of the options that a figure has. Raises UserError on one that is for other kinds."""
    general = ("kind", "runs", "out", "name")
    taken = list(inspect.signature(draw).parameters)[1:]
    given = {item.name: getattr(request, item.name) for item in fields(request) if item.name not in general}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    for name in given:
        if name not in taken:
            has = f"it has {', '.join(f'--{other}' for other in taken)}" if taken else "it has none"
            raise UserError(f"plot {request.kind}: --{name} is for other kinds; {has}")
    return given


def named_runs(runs: Sequence[str], names: Sequence[str], command: str) -> Runs:
    """The folders, under the names that are given. Raises UserError unless there is one for each."""
    if not names:
        return runs
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise UserError(
            f"{command}: --name needs a name of its own for each of {len(runs)} runs, as A,B; got {','.join(names)}"
        )
    return dict(zip(names, runs, strict=True))
