"""`nas-osr report`: the page tells what the runs say, loads nothing, and no name in a run breaks out of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nas_osr.cli.main import main
from nas_osr.data.protocols import make_protocol
from nas_osr.reports.page import inline_svg
from nas_osr.reports.report_of_runs import report_of
from nas_osr.reports.sentences import verdict
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.table import SCORED, write_table

from .conftest import make_predictions, write_method, write_result

HOSTILE = ["</script></style></svg><script>alert(1)</script>", '"><img src=x onerror=alert(2)> & <b>{{ 7*7 }} &lt;']
METHOD = Callable[..., Path]


class Page(HTMLParser):
    """The elements of a page, its texts, and what each table cell says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.inside):
            self.texts.append(data)
        if {"th", "td"} & set(self.inside):
            self.rows[-1][-1] += data

    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def cells(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


def check_harmless(text: str) -> Page:
    """The page has one script, no handler, nothing that a browser would fetch, and no id twice."""
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, attributes)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert value is not None and value.startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)", text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search on digits, and one split trained of what it found."""
    folder = tmp_path_factory.mktemp("report")
    small: dict[str, Any] = {
        "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "device": "cpu", "threads": 1, "quiet": True,
        "batch_size": 16, "epochs": 2,
    }  # fmt: skip
    run_search(
        SearchRequest(**small, strategy_config={"warmup_epochs": 1}, out=str(folder / "search")),
        ["nas-osr", "search", "--out", "search"],
    )
    run_retrain(
        RetrainRequest(
            architecture=str(folder / "search"), **{**small, "epochs": 3}, out=str(folder / "trained"), bootstrap=20
        ),
        ["nas-osr", "retrain"],
    )
    return folder


def test_a_search_and_its_retraining(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(searched / "search"), str(searched / "trained"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    page = check_harmless(out.read_text())
    text = page.text()
    found = json.loads((searched / "search" / "architecture.json").read_text())
    assert f"F1 {found['found']['F1']:.3f} over kept and held-out" in text
    for layer, operation in enumerate(found["branches"]["2"]["operations"]):
        scale = f"1/{4 << found['branches']['2']['path'][layer]}"
        assert ["1/16", str(layer), scale, operation] in page.rows
    result = json.loads((searched / "trained" / "split-0" / "metrics.json").read_text())
    assert verdict(result["metrics"])[1:] in text
    low, high = result["intervals"]["auroc"]
    assert page.cells("AUROC")[1:3] == [
        f"{100 * result['metrics']['auroc']:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
    ]
    assert (searched / "search" / "config.yaml").read_text().strip() in out.read_text().replace("&#39;", "'")
    assert "No figure" not in text and "No pictures" not in text
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert pictures and all(str(attributes["src"]).startswith("data:image/png") for attributes in pictures)
    assert all(attributes["alt"] for attributes in pictures)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) > 6 and all(one["role"] == "img" and one["aria-label"] for one in drawings)
    main(["report", str(searched / "search"), str(searched / "trained"), "--out", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_bytes() == out.read_bytes()


def test_an_unfinished_search_says_so(searched: Path, tmp_path: Path) -> None:
    run = tmp_path / "cut"
    shutil.copytree(searched / "search", run)
    (run / "architecture.json").unlink()
    record = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**record, "finished": None}))
    assert "This search has not finished: 2 of 2 epochs are done." in Page(report_of(run)).text()


def test_images_that_are_gone_are_said(method: METHOD, tmp_path: Path) -> None:
    text = check_harmless(report_of(method(tmp_path / "run"))).text()
    assert "No pictures: " in text and "±" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name: str, method: METHOD, tmp_path: Path) -> None:
    run = method(tmp_path / "run", splits="0")
    part = run / "split-0"
    found = make_predictions(0, 2.0, 0)
    classes = np.array([name if label == "d" else label for label in found.true_class])
    write_result(part, type(found)(**{**vars(found), "true_class": classes}), "cifar10")
    result = json.loads((part / "metrics.json").read_text())
    result["protocol"] |= {"unknown": [name], "known": [["a", name], ["b"], ["c"]]}
    (part / "metrics.json").write_text(json.dumps({**result, "rule": name}))
    config = yaml.safe_load((part / "config.yaml").read_text())
    for folder in (run, part):
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "objective": name, "recipe": name}))
        (folder / "provenance.json").write_text(
            json.dumps(
                {"program": "nas-osr", "finished": name, "command": ["nas-osr", name], "versions": {"torch": name}}
            )
        )
    page = check_harmless(report_of({name: run}, title=name))
    assert page.text().count(" ".join(name.split())) >= 6
    other = method(tmp_path / "other", 1.0, "0")
    check_harmless(report_of({name: run, "other": other}))


def test_several_are_compared(method: METHOD, tmp_path: Path) -> None:
    runs = {"good": method(tmp_path / "good", 3.0, "0"), "bad": method(tmp_path / "bad", 0.5, "0", epochs=7)}
    page = check_harmless(report_of(runs))
    text = page.text()
    scores = {name: json.loads((run / "split-0" / "metrics.json").read_text())["metrics"] for name, run in runs.items()}
    figures = {name: f"{100 * metrics['auroc']:.1f}" for name, metrics in scores.items()}
    assert f"the highest AUROC is that of good, {figures['good']} %; then bad, {figures['bad']} %" in text
    assert page.cells("epochs")[2] == "7"
    difference = 100 * (scores["good"]["auroc"] - scores["bad"]["auroc"])
    assert "good minus bad, points of percent" in text
    assert f"{difference:+.2f}" in [row[1] for row in page.rows if row[0] == "AUROC" and len(row) == 4]
    others = method(tmp_path / "others", 1.0, "0", seed=1)
    assert "No comparison image by image: " in Page(report_of({"good": runs["good"], "others": others})).text()


def test_a_sweep_tells_how_its_runs_ended(method: METHOD, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    records = {}
    for weight in (0.1, 1.0):
        write_method(sweep / f"w{weight}", weight, objective_config={"anchor_weight": weight})
        ends = {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T10:30:00+00:00"}
        records[f"w{weight}"] = {"command": "retrain", "options": {}, "status": "finished", "error": "", **ends}
    records["lost"] = {"command": "retrain", "options": {}, "status": "failed", "error": "<i>no images</i>"}
    (sweep / "sweep.json").write_text(json.dumps({"program": "nas-osr", "schema": 1, "runs": records}))
    page = check_harmless(report_of(sweep))
    assert page.text().count("2 of 3 runs have finished") == 1
    assert page.cells("lost") == ["lost", "retrain", "failed", "-", "<i>no images</i>"]
    assert page.cells("w0.1")[3] == "0:30:00"
    assert page.cells("objective_config.anchor_weight")[1:] == ["0.1", "1.0"]
    assert page.text().count("What objective_config.anchor_weight does") == 2
    assert page.text().count("No figure") == 1  # these runs have no history


def test_a_table_tells_which_architectures_are_good(tmp_path: Path) -> None:
    space = Space(3, 16, ("skip", "conv"))
    rows = []
    for number, level in enumerate((0.6, 0.9, 0.7)):
        figures = {"mls": {name: [[level - 0.1, level], [level - 0.1, level + 0.02]] for name in SCORED}}
        found = sample_architecture(space, number)
        sizes = {"fingerprint": fingerprint(found), "parameters": 1_000_000 * (number + 1), "macs": 5_000_000}
        rows.append({**found.describe(), **sizes, "true": figures, "pas": figures, "seconds": [1.0] * 4})
    header = {
        "config": {"protocol": HOSTILE[0]}, "protocol": make_protocol("digits").to_dict(), "space": asdict(space),
        "complete": False, "epochs": 2, "seeds": 2, "rotations": [["2"], ["3"]], "rules": ["mls"], "scores": [*SCORED],
        "provenance": {},
    }  # fmt: skip
    write_table(tmp_path / "table.jsonl.xz", header, rows)
    page = check_harmless(report_of({"mine": tmp_path}))
    assert "The best of 3 architectures has AUROC 91.0 %, the median one 71.0 %" in page.text()
    assert [row[1:3] for row in page.rows if row and row[0] in ("1", "2", "3")][-3:] == [
        ["91.00", "2.00M"], ["71.00", "3.00M"], ["61.00", "1.00M"],
    ]  # fmt: skip
    assert page.cells("noise")[1] == f"{100 * 0.02 / 2**0.5:.2f}"
    assert page.cells("parameters")[1] == "0.500"  # ranks 1, 2, 3 against 1, 3, 2


def test_mistakes_of_a_user_are_one_line(method: METHOD, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    run = str(method(tmp_path / "run", splits="0"))
    for arguments, message in (
        ([], "name a run folder after it"),
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path / "empty")], "no evaluated retraining in it"),
        ([run, "--out", str(tmp_path / "page.pdf")], "must end in .html"),
        ([run, "--out", str(tmp_path / "no" / "page.html")], "its folder does not exist"),
        ([run, "--name", "A,B"], "--name needs a name of its own"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_an_inline_svg_keeps_its_own_references() -> None:
    names = b'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = (
        b"<svg "
        + names
        + b""" width="10pt" height="5pt"><style>*{fill: red}</style>
      <defs><path id="m" d="M 0 0"/><clipPath id="c"/></defs>
      <use xlink:href="#m" clip-path="url(#c)" style="fill: #1b2733"/><text>&lt;a id="m"&gt; #1b2733</text></svg>"""
    )
    text = inline_svg(svg, 'a "name"')
    [prefix] = set(re.findall(r'id="(f[0-9a-f]{8}-)', text))
    assert f'href="#{prefix}m"' in text and f'clip-path="url(#{prefix}c)"' in text
    assert 'style="fill: var(--ink)"' in text and "red" not in text
    assert '&lt;a id="m"&gt; #1b2733' in text and 'aria-label="a &quot;name&quot;"' in text
