"""The table of commands: what `nas-osr COMMAND` imports and runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nas_osr.plugins import load
from nas_osr.retrain.analysis import ANALYSES


@dataclass(frozen=True)
class Command:
    """One command; what it names is imported only when it is called."""

    function: str
    '"module:name" of what does the work. Its parameters are the options, its docstring their help.'
    summary: str
    "one line for `nas-osr --help`."
    examples: tuple[str, ...]
    "its arguments, for its own --help."
    positionals: tuple[str, ...] = ()
    "options that may be given without their name, in this order."
    config: str | None = None
    '"module:name" of a dataclass whose fields are the options; the function then takes it and the command line.'
    ranks: bool = False
    "whether torchrun may start it in several processes."

    @property
    def options(self) -> Callable[..., Any]:
        """What has the options: the dataclass, or the function."""
        return load(self.config or self.function)


OTHERS = "data and machine"
#: What commands are for, with the first words of their names, as `nas-osr --help` has them together.
FAMILIES: dict[str, tuple[str, ...]] = {
    "make a model": ("fit", "search", "retrain", "evaluate"),
    "use it": ("predict", "calibrate", "export", "score"),
    "see what was found": ("report", "plot", "compare", "analyse"),
    "many runs": ("sweep", "subclusters"),
    OTHERS: (),
}

COMMANDS: dict[str, Command] = {
    "fit": Command(
        "nas_osr.cli.fit:fit",
        "make a model of your own pictures within a budget of time",
        ("fit PICTURES --minutes 30 --out birds", "fit PICTURES --unknown wall,sky --dry_run"),
        ("folder",),
        config="nas_osr.deploy.fit_request:FitRequest",
    ),
    "search": Command(
        "nas_osr.cli.search:search",
        "search an architecture on a protocol",
        (
            "search --protocol digits --preset tiny --out runs/search",
            "search --protocol cifar10 --split 0 --data_dir IMAGES --dry_run",
        ),
        config="nas_osr.strategies.search_request:SearchRequest",
        ranks=True,
    ),
    "export": Command(
        "nas_osr.cli.export:export",
        "write an architecture as pictures, a graph or JSON, or a run's model folder",
        ("export runs/search --format svg,png --out pictures", "export runs/retrain --format safetensors --out models"),
        ("architecture",),
    ),
    "retrain": Command(
        "nas_osr.cli.retrain:retrain",
        "train an architecture from scratch and evaluate it",
        (
            "retrain runs/search --splits 0-4",
            "retrain --network resnet18 --objective cross_entropy --protocol cifar10 --recipe cac",
        ),
        ("architecture",),
        config="nas_osr.retrain.retrain_request:RetrainRequest",
        ranks=True,
    ),
    "evaluate": Command(
        "nas_osr.cli.evaluate:evaluate",
        "evaluate retrained runs again, also with another rule or unknown",
        ("evaluate runs/retrain --rule mls,energy", "evaluate runs/retrain --unknown svhn"),
        ("run",),
        config="nas_osr.retrain.retrain_request:EvaluateRequest",
    ),
    "predict": Command(
        "nas_osr.cli.predict:predict",
        "say of images which known class each is of, or unknown",
        (
            "predict runs/retrain photo.jpg",
            "predict MODEL FOLDER --json",
            "predict MODEL - --csv --out answers.csv",
        ),
        ("model", "images"),
        config="nas_osr.cli.predict:PredictRequest",
    ),
    "calibrate": Command(
        "nas_osr.cli.calibrate:calibrate",
        "set a model's threshold on your own known images, with a guarantee",
        ("calibrate runs/retrain FOLDER --accept 0.95", "calibrate MODEL FOLDER --per_class --out MODEL2"),
        ("model", "images"),
        config="nas_osr.cli.calibrate:CalibrateRequest",
    ),
    "score": Command(
        "nas_osr.cli.score:score",
        "apply a scoring rule to your own logits or embeddings",
        ("score arrays.npz --rule neighbours --rule_config.k 5 --out predictions.csv",),
        ("file",),
        config="nas_osr.cli.score:ScoreRequest",
    ),
    **{
        f"analyse {kind}": Command("nas_osr.cli.analyse:analyse", summary, (example,), ("run",), config=place)
        for kind, (place, summary, example) in ANALYSES.items()
    },
    "compare": Command(
        "nas_osr.cli.compare:compare",
        "show retrained runs side by side, and beside the published figures",
        ("compare runs/a runs/b --metric auroc,oscr --format markdown",),
        ("runs",),
    ),
    "plot": Command(
        "nas_osr.cli.plot:plot",
        "draw figures of finished runs: ROC, OSCR, confusion, history and more",
        (
            "plot roc runs/cac runs/plain --name CAC,cross-entropy --out roc.pdf",
            "plot confusion runs/cac --accepted --out confusion.svg",
        ),
        ("kind", "runs"),
        config="nas_osr.cli.plot:PlotRequest",
    ),
    "report": Command(
        "nas_osr.cli.report:report",
        "write one HTML page about runs: what was asked, the answer, figures, metrics, mistakes",
        ("report runs/retrain --out report.html", "report runs/search runs/cac runs/plain --name search,CAC,plain"),
        ("runs",),
        config="nas_osr.cli.report:ReportRequest",
    ),
    "sweep": Command(
        "nas_osr.cli.sweep:sweep",
        "run many runs from one file, resumable; the papers' experiments ship",
        ("sweep --list", "sweep cac-ablation --set.protocol digits --dry_run"),
        ("file",),
        config="nas_osr.cli.sweep:SweepRequest",
    ),
    "tabulate": Command(
        "nas_osr.cli.tabulate:tabulate",
        "train the architectures of a space into a table to search in",
        (
            "tabulate tiny --protocol digits --seeds 3 --rotations 2 --out runs/table",
            "tabulate small --protocol cifar10 --sample 100 --epochs 8 --jobs 2",
        ),
        ("preset",),
        config="nas_osr.strategies.tabulate_request:TabulateRequest",
    ),
    "table": Command(
        "nas_osr.cli.table:show_search_table",
        "show what a table of architectures says, and how strategies fare on it",
        ("table runs/table", "table runs/table --strategy random,evolution --criterion auroc --seeds 200"),
        ("file",),
        config="nas_osr.cli.table:TableRequest",
    ),
    "subclusters": Command(
        "nas_osr.cli.subclusters:subclusters",
        "recommend how many subclusters each class of a GMVAE should have",
        ("subclusters runs/search --protocol cifar10 --counts 1,2,3",),
        ("architecture",),
        config="nas_osr.retrain.subclusters.subclusters_request:SubclustersRequest",
    ),
    "bench": Command(
        "nas_osr.cli.bench:bench",
        "measure what a training step costs: seconds, memory, FLOPs, share of the machine's peak",
        ("bench --preset small --device cuda", "bench --phase retrain --network resnet18 --protocol cifar10"),
        config="nas_osr.cli.bench:BenchRequest",
    ),
    "data list": Command("nas_osr.cli.data:list_protocols", "list the protocols", ("data list",)),
    "data prepare": Command(
        "nas_osr.cli.data:prepare",
        "get the images of a protocol",
        ("data prepare cifar10 --data_dir IMAGES --download",),
        ("name",),
    ),
    "data check": Command("nas_osr.cli.data:check", "say whose images are there", ("data check --data_dir IMAGES",)),
    "rules": Command("nas_osr.cli.rules:rules", "show which objective feeds which scoring rule", ("rules",)),
    "doctor": Command(
        "nas_osr.cli.doctor:doctor",
        "show devices, versions, data and disk: what a bug report needs",
        ("doctor --json",),
    ),
}
