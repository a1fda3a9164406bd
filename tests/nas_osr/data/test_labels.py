"""Labels and class ids: there and back for every protocol and split, through loading and into the predictions."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas_osr.data.dataset import LabelledImages, load_data
from nas_osr.data.protocols import Protocol, make_protocol, with_unknown
from nas_osr.data.sources import open_source
from nas_osr.data.sources.base import Source
from nas_osr.data.tasks import PROTOCOLS, count_splits
from nas_osr.evaluation.judging import evaluate_rule
from nas_osr.evaluation.predictions import read_predictions, write_predictions
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule

EVERY = [
    (name, family, split)
    for name in PROTOCOLS
    for family, count in count_splits(name).items()
    for split in range(count)
]


def three_of_each(source: Source, part: str, classes: Collection[int], *_: Any) -> tuple[Tensor, Tensor]:
    """In the place of `Source.load`: three images a class, in the file's order and not in that of the labels."""
    ids = torch.tensor(sorted(set(classes)) * 3, dtype=torch.int64)
    return torch.zeros((len(ids), 1, 2, 2), dtype=torch.uint8), ids


def check(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> LabelledImages:
    """Every image of a protocol has the label of its class, and its label leads back to the class; the test images."""
    monkeypatch.setattr(Source, "load", three_of_each)
    data = load_data(protocol)
    for part in (data.train, data.validation, data.test()):
        for label, source_id in zip(part.labels.tolist(), part.source_labels.tolist(), strict=True):
            if label == protocol.num_known:
                name = open_source(protocol.unknown_source).class_names[source_id]
                assert name in protocol.unknown and part is data.test()
            else:
                name = open_source(protocol.source).class_names[source_id]
                assert name in protocol.known[label] and protocol.label_map[name] == label
                assert name in protocol.class_names[label].split("+")
    ids = sorted(map(open_source(protocol.source).class_names.index, protocol.known_classes))
    others = sorted(map(open_source(protocol.unknown_source).class_names.index, protocol.unknown))
    test = data.test()
    unknown = test.labels == protocol.num_known
    for part in (data.train, data.validation):
        assert sorted(set(part.source_labels.tolist())) == ids
        assert set(part.labels.tolist()) == set(range(protocol.num_known))
    assert sorted(set(test.source_labels[~unknown].tolist())) == ids
    assert sorted(set(test.source_labels[unknown].tolist())) == others
    assert len(test) == 3 * (len(ids) + len(protocol.unknown))
    return test


@pytest.mark.parametrize(("name", "family", "split"), EVERY)
def test_every_protocol_and_split(name: str, family: str, split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(make_protocol(name, split, family=family), monkeypatch)


@pytest.mark.parametrize("source", ["svhn", "cifar100", "cifar10"])
def test_unknowns_of_another_source(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 3 of CIFAR-10 is known, class 3 of SVHN is not: the same id, two labels."""
    protocol = with_unknown(make_protocol("cifar10", known=[3, 5, 0]), source)
    test = check(protocol, monkeypatch)
    threes = sorted(set(test.labels[test.source_labels == 3].tolist()))
    assert threes == ([0] if source == "cifar10" else [0, 3])


@settings(max_examples=30)
@given(st.permutations(range(10)), st.integers(2, 9), st.data())
def test_any_order_and_any_merging(order: list[int], count: int, data: st.DataObject) -> None:
    chosen = order[:count]
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), min_size=1)))
    groups = [chosen[start:stop] for start, stop in zip([0, *cuts], [*cuts, count], strict=True)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        check(make_protocol("cifar10", known=groups), monkeypatch)


@pytest.mark.parametrize("name", ["cifar10", "cifar+10", "tinyimagenet"])
def test_predictions_name_the_class_that_each_image_is_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_protocol(name, 1)
    test = check(protocol, monkeypatch)
    known_names, unknown_names = load_data(protocol).names()
    rule = make_rule("mls")
    logits = torch.nn.functional.one_hot(test.labels, protocol.num_known + 1)[:, :-1].float()
    known = test.labels < protocol.num_known
    rule.set_threshold(Outputs(logits=logits[known]), test.labels[known])
    metrics, predictions = evaluate_rule(
        rule,
        Outputs(logits=logits),
        test.labels,
        test.source_labels,
        known_names=known_names,
        unknown_names=unknown_names,
    )
    write_predictions(tmp_path / "predictions.csv", predictions)
    again = read_predictions(tmp_path / "predictions.csv")
    known_ids = {n: i for i, n in enumerate(open_source(protocol.source).class_names)}
    unknown_ids = {n: i for i, n in enumerate(open_source(protocol.unknown_source).class_names)}
    back = [
        (unknown_ids if label == protocol.num_known else known_ids)[shown]
        for label, shown in zip(again.true_label, again.true_class, strict=True)
    ]
    assert back == test.source_labels.tolist()
    assert again.true_label.tolist() == test.labels.tolist()
    assert metrics["macro_f1"] == metrics["closed_set_accuracy"] == metrics["auroc"] == 1.0
