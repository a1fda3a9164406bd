"""What Python's functions return, as a notebook shows it; IPython asks an object for `_repr_html_` and `_repr_svg_`."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nas_osr
from nas_osr.reports.notebook import EvaluationAnswers, RetrainingAnswer, SearchAnswer
from nas_osr.reports.page import SVG
from nas_osr.search_spaces.architectures.references import load_architecture, published

SMALL: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "device": "cpu", "threads": 1, "quiet": True,
    "batch_size": 16,
}  # fmt: skip


def test_an_architecture_shows_its_picture() -> None:
    picture = published()._repr_svg_()
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{{{SVG}}}svg"
    texts = [element.text for element in root.iter(f"{{{SVG}}}text")]
    assert "stem" in texts and texts.count("conv2") >= list(published().chosen_cells().values()).count("conv2")


def test_searches_and_results_show_themselves(tmp_path: Path) -> None:
    out = str(tmp_path / "search")
    found = nas_osr.search(**SMALL, epochs=2, strategy_config={"warmup_epochs": 1}, out=out)
    shown = found._repr_html_()
    assert shown is not None and f"F1 {found['f1']:.3f} over kept" in shown and shown.count("<svg") == 2
    assert "<script" not in shown
    result = nas_osr.train(
        architecture=out,
        **SMALL,
        objective="cross_entropy",
        rule="mls",
        epochs=2,
        bootstrap=0,
        out=str(tmp_path / "run"),
    )
    shown = result._repr_html_()
    assert shown is not None and f"<td>{100 * result['metrics']['auroc']['mean']:.1f}</td>" in shown
    assert shown.count("<svg") == 2 and "<script" not in shown
    # they are what they were: plain values
    assert type(json.loads(json.dumps(result))) is dict and pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(found) == dict(found)
    again = nas_osr.evaluate(run=result["out"], rule="mls,msp", device="cpu", threads=1, bootstrap=0)
    shown = again._repr_html_()
    assert "mls, split 0" in shown and "2 rules on the same network." in shown
    assert f"<td>{100 * again[1]['metrics']['auroc']:.1f}</td>" in shown
    planned = nas_osr.train(architecture=out, **SMALL, dry_run=True, out=str(tmp_path / "new"))
    assert planned._repr_html_() is None
    shutil.rmtree(tmp_path / "search")
    assert found._repr_html_() is None  # its folder has gone: the plain value is shown


def test_hostile_names_stay_text(method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "<img src=x onerror=alert(1)>", splits="0")
    result = json.loads((run / "split-0" / "metrics.json").read_text())
    shown = EvaluationAnswers([{**result, "rule": "<img src=x>"}])._repr_html_()
    metrics = {name: {"mean": value, "std": None, "n": 1} for name, value in result["metrics"].items()}
    trained = RetrainingAnswer(out=str(run), metrics=metrics)._repr_html_()
    assert trained is not None and "<img" not in shown + trained
    assert SearchAnswer(would_search={})._repr_html_() is None
    assert load_architecture("published") == published()
