"""Bilevel search on digits: what it may see, what each step may change, and what it selects."""

from __future__ import annotations

import dataclasses
import math
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
        "objective": "vae_contrastive", "objective_config": {"decoder_channels": 0}, "threads": 1, "device": "cpu",
    }  # fmt: skip
    own = {"warmup_epochs": 1, **changes.pop("own", {})}
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

    def keep(*arguments: Any, **options: Any) -> Supernet:
        supernets.append(original(*arguments, **options))
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


@pytest.mark.parametrize(("settled", "first"), [(0.0, 1), (0.5, 3)])
def test_selection_takes_the_best_f1_after_warmup_and_later_on_ties(
    digits: OpenSetData, settled: float, first: int
) -> None:
    """Of all epochs after warm-up (the paper's), or of the last half of them."""
    result, recorder = run(digits, epochs=5, own={"settled": settled})
    competing = recorder.records[first:]
    assert {record["phase"] for record in competing} == {"search"}
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
    _, one = run(digits, epochs=2, own={"order": "architecture_first"})
    _, other = run(digits, epochs=2, own={"order": "weights_first"})
    assert one.records[0] == other.records[0]  # warm-up has no architecture step
    assert one.records[1]["alpha"] != other.records[1]["alpha"]


@pytest.mark.parametrize(
    ("settled", "expected"),
    [(0.0, [1, 10**-0.25, 10**-0.5, 10**-0.75, 0.1]), (0.5, [1, 10 ** (-1 / 3), 10 ** (-2 / 3), 0.1, 0.1])],
)
def test_the_temperature_falls_after_warm_up_and_stays_in_the_end(
    digits: OpenSetData, monkeypatch: pytest.MonkeyPatch, settled: float, expected: list[float]
) -> None:
    seen: list[float] = []
    set_temperature = levels.Levels.set_temperature
    monkeypatch.setattr(
        levels.Levels, "set_temperature", lambda self, value: (seen.append(value), set_temperature(self, value))
    )
    run(digits, epochs=5, own={"settled": settled, "temperature": 0.1})
    assert seen == pytest.approx(expected)


def test_choices_are_decided_in_the_settled_epochs_however_little_the_logits_differ(digits: OpenSetData) -> None:
    """Without the option the same logits leave an entropy near 1; the temperature that it took is in the history."""
    own = {"settled": 0.5, "temperature": 0.5, "architecture_lr": 1e-3}
    _, plain = run(digits, epochs=5, own=own)
    _, decided = run(digits, epochs=5, own={**own, "final_entropy": 0.3})
    assert plain.records[:3] == decided.records[:3]
    for before, after in zip(plain.records[3:], decided.records[3:], strict=True):
        assert before["monitors"]["entropy"]["alpha"] > 0.9 and before["temperature"] == 0.5
        assert after["monitors"]["entropy"]["alpha"] < 0.4 and after["temperature"] < 0.1
        assert "entropy" not in after["monitors"]["warnings"]


def test_a_search_resumed_within_an_epoch_keeps_the_temperature_that_it_took(digits: OpenSetData) -> None:
    own = {"settled": 0.5, "temperature": 0.5, "final_entropy": 0.3}
    whole, recorder = run(digits, epochs=5, own=own)
    part = MemoryRecorder(clone(recorder.states[3]), clone(recorder.records[:4]))
    resumed, part = run(digits, part, epochs=5, own=own)
    assert_same(recorder.records, part.records)
    assert whole == resumed


@pytest.mark.parametrize(
    "own",
    [
        {"sampler": "gdas", "temperature": 0.5},
        {"sampler": "drnas"},
        {"unrolled": True},
        {"unrolled": True, "order": "weights_first", "sampler": "drnas"},
        {"entropy_weight": 1.0},
        {"discretisation": "perturbation"},
        {"discretisation": "argmax", "sampler": "gdas"},
    ],
    ids=str,
)
def test_every_option_changes_a_search_that_goes_on_with_the_same_bits(
    digits: OpenSetData, own: dict[str, Any]
) -> None:
    small = {"own": own, "objective": "cross_entropy", "objective_config": {}, "rule": None}
    whole, recorder = run(digits, **small)
    _, plain = run(digits, **{**small, "own": {}})
    assert recorder.records[-1] != plain.records[-1] or own.keys() & {"discretisation"}
    part = MemoryRecorder(clone(recorder.states[1]), clone(recorder.records[:2]))
    resumed, part = run(digits, part, **small)
    assert_same(recorder.records, part.records)
    assert_same(recorder.states[-1], part.states[-1])
    assert whole == resumed


def test_options_that_do_not_go_together_are_refused(digits: OpenSetData) -> None:
    with pytest.raises(UserError, match="stop_rule: discretisation perturbation needs the last epoch's supernet"):
        run(digits, own={"discretisation": "perturbation", "stop_rule": "skips"})
    with pytest.raises(UserError, match="discretisation: argmax keeps to no budget: leave it at best_path"):
        run(digits, own={"discretisation": "argmax"}, max_params="300k")
    with pytest.raises(UserError, match="sampler must be one of softmax, gdas, drnas, got 'reinforce'"):
        run(digits, own={"sampler": "reinforce"})


@pytest.mark.parametrize(
    "own",
    [{"unrolled": True}, {"freeze_below": 0.4}, {"partial_channels": 2}, {"sampler": "gdas"}, {"sampler": "drnas"}],
    ids=str,
)
@pytest.mark.parametrize("rule", ["mls", "odin"])
def test_every_option_searches_in_bf16(digits: OpenSetData, own: dict[str, Any], rule: str) -> None:
    """The precision of a GPU and of many CPUs, at which Fabric forbids gradients that it does not take itself."""
    result, recorder = run(
        digits, epochs=2, own=own, objective="cross_entropy", objective_config={}, rule=rule, precision="bf16-mixed"
    )
    assert 0 < result.score <= 1
    assert all(math.isfinite(loss) for loss in recorder.records[-1]["losses"].values())


@pytest.mark.parametrize("own", [{"sampler": "gdas"}, {"unrolled": True}], ids=str)
def test_steps_that_cannot_be_captured_are_named(
    digits: OpenSetData, caplog: pytest.LogCaptureFixture, own: dict[str, Any]
) -> None:
    run(digits, epochs=2, own=own, graphs="on", objective="cross_entropy", objective_config={}, rule=None)
    reason = (
        "sampler gdas evaluates what has been drawn alone" if "sampler" in own else "an unrolled step moves weights"
    )
    assert [line for line in caplog.messages if line.startswith(f"--graphs on: {reason}")] == caplog.messages


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
