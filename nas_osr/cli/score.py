"""`nas-osr score`: any scoring rule on a user's own logits or embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from nas_osr.cli.show import show_evaluation, show_json, show_table
from nas_osr.configuration import Checked, UserPath
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, SEEDS, Choices
from nas_osr.scoring import BRIDGE, RULES


@dataclass
class ScoreRequest(Checked):
    """Apply a scoring rule to the outputs of any network, given as arrays in a NumPy .npz file.

    The arrays are called train_FIELD, validation_FIELD and test_FIELD, for example train_embedding and train_labels.
    Which fields a rule needs, and what else may be there, is in docs/how-to/score.md.
    """

    file: UserPath
    "the .npz file, as numpy.savez writes it."
    rule: Annotated[str, Choices(RULES, plugins=True, besides=f"{BRIDGE}NAME")]
    "scoring rule."
    rule_config: dict[str, Any] = field(default_factory=dict)
    "settings of the rule, for example --rule_config.k 5."
    out: UserPath | None = None
    "a file in the format of predictions.csv to write."
    overwrite: bool = False
    "replace `out` where it is there already."
    seed: Annotated[int, SEEDS] = 0
    "of the training images that are held out where there are no validation arrays."
    bootstrap: Annotated[int, NOT_NEGATIVE] = 1000
    "resamples for the confidence intervals of the metrics; 0 leaves them out."
    json: bool = False
    "print the result as one JSON object."


def score(request: ScoreRequest, command: list[str]) -> None:
    """Score as asked and print the metrics; without test_labels, how many images got each label."""
    from nas_osr.evaluation.predictions import Predictions, write_predictions
    from nas_osr.evaluation.score_file import score_arrays
    from nas_osr.evaluation.user_arrays import read_arrays

    out = None if request.out is None else Path(request.out)
    if out is not None and out.exists() and not request.overwrite:
        raise UserError(f"{out}: is there already; add --overwrite or choose another --out")
    scored = score_arrays(read_arrays(request.file), request.rule, request.rule_config, request.seed)
    found = scored.judgements
    counts = [int((found.predicted_label == label).sum()) for label in range(found.num_known + 1)]
    intervals = {}
    if isinstance(found, Predictions) and request.bootstrap:
        intervals = found.intervals(repeats=request.bootstrap)
    if out is not None:
        write_predictions(out, found)
    if request.json:
        show_json(
            {
                "rule": scored.rule.name,
                "threshold": scored.rule.threshold,
                "images": scored.images,
                "predicted": counts,
                "names": scored.names,
                "metrics": scored.metrics,
                "intervals": intervals,
                "notes": scored.notes,
            }
        )
        return
    for note in scored.notes:
        print(note)
    if isinstance(found, Predictions):
        show_evaluation(scored.metrics, intervals)
    else:
        labels = [*scored.names, "unknown"]
        show_table([["label", "images"], *([label, str(count)] for label, count in zip(labels, counts, strict=True))])
