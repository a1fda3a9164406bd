"""Bilevel search on digits: what it may see, what each step may change, and what it selects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.data.dataset import LabelledImages, OpenSetData, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.plans import LearningData
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.strategies.base import SearchResult
from nas_osr.strategies.bilevel import levels
from nas_osr.strategies.pseudo_unknown import choose_pseudo_unknown, split_for_search
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest


class MemoryRecorder:
    """A recorder without a folder."""

    def __init__(self, state: dict[str, Any] | None = None, records: list[dict[str, Any]] | None = None) -> None:
        self.state, self.records = state, records or []
        self.states: list[dict[str, Any]] = []

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.records.append(record)

    def step(self, done: int, steps: int) -> None:
        """Show nothing: nobody looks."""

    def wants_checkpoint(self) -> bool:
        return False

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        self.states.append(clone(state))

    def restore(self) -> dict[str, Any] | None:
        return self.state

    def history(self) -> list[dict[str, Any]]:
        return self.records


def clone(value: Any) -> Any:
    """A deep copy of nested tensors and plain values."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value.clone() if isinstance(value, Tensor) else value


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def digits() -> OpenSetData:
    return load_data(make_protocol("digits"), limit_per_class=40)


def run(
    data: OpenSetData, recorder: MemoryRecorder | None = None, watch: Callable[[], None] | None = None, **changes: Any
) -> tuple[SearchResult, MemoryRecorder]:
    """A search of seconds."""
    settings: dict[str, Any] = {
        "protocol": "digits", "preset": "tiny", "layers": 3, "epochs": 3, "batch_size": 16, "rule": "cap",
        "objective_config": {"decoder_channels": 0}, "threads": 1, "device": "cpu",
    }  # fmt: skip
    own = {"warmup_epochs": 1, "order": changes.pop("order", "architecture_first")}
    plan = plan_search(SearchRequest(**{**settings, "strategy_config": own, **changes}))
    recorder = recorder or MemoryRecorder()
    images = LearningData(data, torch.zeros(0), "")
    return plan.strategy.search(plan, images, plan.machine.open(), recorder), recorder


def with_marked(data: OpenSetData, labels: tuple[int, ...], value: int) -> OpenSetData:
    """The same data with the images of some classes, training and validation, painted over."""

    def paint(part: LabelledImages) -> LabelledImages:
        images = part.images.clone()
        images[torch.isin(part.labels, torch.tensor(labels))] = value
        return dataclasses.replace(part, images=images)

    return dataclasses.replace(data, train=paint(data.train), validation=paint(data.validation))


def test_test_images_and_true_unknowns_are_never_opened(digits: OpenSetData, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: OpenSetData) -> LabelledImages:
        raise AssertionError("a search opened the test images")

    monkeypatch.setattr(OpenSetData, "test", refuse)
    run(digits)


def test_pseudo_unknown_images_influence_nothing_but_the_score(digits: OpenSetData) -> None:
    """Painting every pseudo-unknown image over changes no weight, alpha, running statistic, optimiser or loss."""
    pseudo = choose_pseudo_unknown(digits.protocol, None, 0).pseudo
    _, plain = run(digits)
    _, marked = run(with_marked(digits, pseudo, 255))
    for one, other in zip(plain.states, marked.states, strict=True):
        assert_same({**one, "best": None}, {**other, "best": None})
    for one, other in zip(plain.records, marked.records, strict=True):
        assert one["losses"] == other["losses"] and one["threshold"] == other["threshold"]
    # and the mark would have been seen: the scores that are allowed to see it do
    assert [record["auroc"] for record in plain.records] != [record["auroc"] for record in marked.records]


def test_the_mark_is_seen_where_it_may_be(digits: OpenSetData) -> None:
    """The same mark on a kept class does change weights: the test above can fail."""
    kept = choose_pseudo_unknown(digits.protocol, None, 0).kept[0]
    _, plain = run(digits, epochs=2)
    _, marked = run(with_marked(digits, (kept,), 255), epochs=2)
    assert plain.records[0]["losses"] != marked.records[0]["losses"]


def test_each_step_changes_its_own_side_only(digits: OpenSetData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up leaves alphas and betas alone; the architecture step leaves weights and running statistics alone."""
    supernets: list[Supernet] = []
    original = levels.build_supernet

    def keep(*arguments: Any) -> Supernet:
        supernets.append(original(*arguments))
        return supernets[0]

    seen = {"architecture steps": 0}
    original_frozen = levels.frozen

    def check(module: nn.Module, parameters: list[nn.Parameter]) -> Any:
        class Watch:
            def __enter__(self) -> None:
                self.inner = original_frozen(module, parameters)
                architecture = {id(p) for p in supernets[0].architecture_parameters.values()}
                self.before = {
                    name: value.clone() for name, value in module.state_dict().items() if "_arch_alpha" not in name
                }
                assert all(id(p) not in architecture for p in parameters)
                self.inner.__enter__()

            def __exit__(self, *exception: Any) -> None:
                assert all(p.grad is None or not p.requires_grad for p in parameters)
                self.inner.__exit__(*exception)
                after = module.state_dict()
                for name, value in self.before.items():
                    assert torch.equal(value, after[name]), name
                assert all(p.requires_grad for p in parameters)
                seen["architecture steps"] += 1

        return Watch()

    monkeypatch.setattr(levels, "build_supernet", keep)
    monkeypatch.setattr(levels, "frozen", check)
    _, recorder = run(digits)
    first, last = recorder.records[0], recorder.records[-1]
    assert first["phase"] == "warmup" and last["phase"] == "search"
    for weights in first["alpha"].values():
        assert len(set(weights.values())) == 1  # untouched during warm-up
    assert any(len(set(weights.values())) > 1 for weights in last["alpha"].values())
    assert seen["architecture steps"] > 0


def test_selection_takes_the_best_f1_after_warmup_and_later_on_ties(digits: OpenSetData) -> None:
    result, recorder = run(digits, epochs=4)
    competing = [record for record in recorder.records if record["phase"] == "search"]
    best = max(competing, key=lambda record: (record["f1"], record["epoch"]))
    assert (result.epoch, result.score) == (best["epoch"], best["f1"])
    assert result.architecture.to_dict()["branches"] == best["branches"]


def test_darts_keeps_all_classes_and_takes_the_last_epoch(digits: OpenSetData) -> None:
    result, recorder = run(digits, strategy="darts")
    assert result.epoch == 2
    assert all(record["auroc"] is None for record in recorder.records)


def test_resuming_gives_the_same_bits(digits: OpenSetData) -> None:
    whole, recorder = run(digits)
    part = MemoryRecorder(clone(recorder.states[0]), clone(recorder.records[:1]))
    resumed, part = run(digits, part)
    assert_same(recorder.records, part.records)
    assert_same(recorder.states[-1], part.states[-1])
    assert whole == resumed


def test_steps_can_come_in_either_order(digits: OpenSetData) -> None:
    _, one = run(digits, epochs=2, order="architecture_first")
    _, other = run(digits, epochs=2, order="weights_first")
    assert one.records[0] == other.records[0]  # warm-up has no architecture step
    assert one.records[1]["alpha"] != other.records[1]["alpha"]


def test_halves_are_disjoint_and_equal_in_every_class(digits: OpenSetData) -> None:
    classes = choose_pseudo_unknown(digits.protocol, None, 3)
    split = split_for_search(digits, classes, 3, rule_sample=50)
    assert len(classes.pseudo) == 2 and len(classes.kept) == 4
    half = {tuple(image.flatten().tolist()) for image in split.weight.images}
    other = {tuple(image.flatten().tolist()) for image in split.architecture.images}
    assert not half & other
    counts = [torch.bincount(part.labels, minlength=4) for part in (split.weight, split.architecture)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    for part in (split.weight, split.architecture, split.fit_sample, split.validation):
        # search labels and source classes agree with the protocol
        for label, source in zip(part.labels.tolist(), part.source_labels.tolist(), strict=True):
            assert digits.protocol.label_map[str(source)] == classes.kept[label]
    assert set(split.pseudo_unknown.labels.tolist()) == {4}
    sources = split.pseudo_unknown.source_labels
    assert {digits.protocol.label_map[str(source)] for source in sources.tolist()} == set(classes.pseudo)
    assert torch.bincount(sources)[sources.unique()].tolist() == [len(split.validation) // 4] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [([0, 6], "different labels from 0 to 5"), ([0, 0], "different labels"), ([0, 1, 2, 3, 4], "fewer than 2")],
)
def test_wrong_pseudo_unknown_labels_are_refused(digits: OpenSetData, given: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_pseudo_unknown(digits.protocol, given, 0)


def test_pseudo_unknown_classes_of_the_published_family_are_the_published_ones() -> None:
    protocol = make_protocol("mnist", 0, family="nas_osr")
    assert protocol.pseudo_unknown is not None
    assert choose_pseudo_unknown(protocol, None, 0).pseudo == tuple(sorted(protocol.pseudo_unknown))
    assert {protocol.known[label][0] for label in protocol.pseudo_unknown} == {"6", "4"}
