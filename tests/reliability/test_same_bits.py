"""Every objective and strategy: interrupted between two steps and resumed, or run twice, gives the same bits."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_osr.data.augmentation import CHANGES
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources.digits import Digits
from nas_osr.objectives import OBJECTIVES
from nas_osr.plans import LearningData
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space
from nas_osr.strategies import STRATEGIES
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.fabric import make_fabric

GAN = {"gan_width": 4, "gan_latent": 8}
BEFOREHAND = {"gan_epochs": 1, "gan_batch_size": 16}
# every objective, with everything in it that learns, remembers or draws
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae_contrastive": ("vae_contrastive", {"decoder_channels": 16}),
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy-lorot": ("cross_entropy", {"side_task": "lorot", "classifier": "scaled_cosine", "pooling": "both"}),
    "cross_entropy-rotpred": ("cross_entropy", {"side_task": "rotpred", "logit_norm": 0.04}),
    "cac": ("cac", {}),
    "crosr": ("crosr", {"decoder_channels": 16}),
    "confidence-gan": ("confidence", {"source": "gan", **GAN}),
    "confidence-pretrained": ("confidence", {"source": "pretrained_gan", **GAN, **BEFOREHAND}),
    "confidence-outliers": ("confidence", {"source": "outliers"}),
    "gmvae": ("gmvae", {"subclusters": 2, "decoder_channels": 16, "reconstruction": "truncated_gaussian"}),
    "supcon-gradmix": ("supcon", {"mix": "gradmix", "augment": True}),
    "supcon-cutmix": ("supcon", {"mix": "cutmix"}),
    "supcon-mixup": ("supcon", {"mix": "mixup"}),
    "moco": ("moco", {"queue_size": 20}),
    "arpl": ("arpl", {"confusing_samples": True, "gan_width": 4, "gan_latent": 8}),
    "arpl-alone": ("arpl", {}),
    "proser": ("proser", {"warmup": 0.3}),
    "conosr": ("conosr", {}),
}
AVERAGED = ("cross_entropy-lorot", "moco")  # retrainings that keep an average of their weights
# with nothing to remember that others have not
SLOWER = ("confidence-outliers", "supcon-cutmix", "supcon-mixup", "cross_entropy-rotpred", "arpl-alone")
STEPS = 5  # an epoch has more
TRIED: dict[str, dict[str, Any]] = {  # two trials of each strategy that has trials
    "random": {"trials": 2},
    "evolution": {"trials": 2, "population": 2, "tournament": 1},
    "predictor": {"trials": 2, "initial": 2},
    "nsga": {"trials": 2, "population": 2},
    "single_path": {"trials": 2, "population": 2, "tournament": 1},
}


class Interrupting:
    """A recorder in memory that stops after some step, as a signal does, and keeps what a file would have kept."""

    def __init__(self, stop_after: int | None = None, before: Interrupting | None = None) -> None:
        self.stop_after = stop_after
        self.records: list[dict[str, Any]] = []
        self.state: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        if before is not None:
            assert before.state is not None
            self._restored = before.state
            self.records = before.records[: before.state["epoch"] + 1]

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        assert timing["seconds"] >= timing["training_seconds"] > 0
        self.records.append(json.loads(json.dumps(record)))

    def step(self, done: int, steps: int) -> None:
        """Show nothing: nobody looks."""

    def wants_checkpoint(self) -> bool:
        if self.stop_after is not None:
            self.stop_after -= 1
        return self.stop_after == 0

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        self.state = torch.load(file, map_location="cpu", weights_only=True)
        if self.stop_after == 0:
            raise KeyboardInterrupt

    def restore(self) -> dict[str, Any] | None:
        return self._restored

    def folder(self) -> None:
        return None

    def history(self) -> list[dict[str, Any]]:
        return self.records


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes(), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def digits() -> OpenSetData:
    return load_data(make_protocol("digits"), limit_per_class=10)


def outliers(data: OpenSetData) -> Tensor:
    return data.train.images.flip(3)


def retrain(
    data: OpenSetData,
    variant: str,
    recorder: Interrupting,
    device: str = "cpu",
    graphs: str = "off",
    network: str | None = None,
    **recipe: Any,
) -> Any:
    """Two epochs of six steps, of a network by name or else of an architecture."""
    name, settings = VARIANTS[variant]
    architecture = sample_architecture(Space(3, 16), 0).to_dict()
    request = RetrainRequest(
        preset="tiny",
        architecture=None if network else architecture,
        network=network,
        objective=name,
        objective_config=settings,
        recipe_config=recipe or ({"averaging": 0.9} if variant in AVERAGED else {}),
        epochs=2,
        batch_size=9,
        graphs=graphs,
    )
    plan = plan_measured(request, data.protocol)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = plan.build(outliers(data))
        return plan.train(learner, data, make_fabric(device, "32-true", 1), recorder, seed=0)


def search(
    data: OpenSetData,
    variant: str,
    strategy: str,
    recorder: Interrupting,
    device: str = "cpu",
    graphs: str = "off",
    epochs: int = 2,
    **own: Any,
) -> Any:
    """Two epochs, or as many, the first of warm-up; or two trials of two epochs."""
    name, settings = VARIANTS[variant]
    own |= TRIED.get(strategy, {"warmup_epochs": 1})
    request = SearchRequest(
        protocol="digits", preset="tiny", layers=3, channels=16, epochs=epochs, batch_size=3, objective=name,
        objective_config=settings, strategy=strategy, strategy_config=own, rule_sample=20, graphs=graphs,
    )  # fmt: skip
    plan = plan_measurement(request, data.protocol)
    images = LearningData(data, outliers(data), "")
    return plan.strategy.search(plan, images, make_fabric(device, "32-true", 1), recorder)


def test_every_objective_is_among_the_variants() -> None:
    assert {name for name, _ in VARIANTS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOWER else []) for name in VARIANTS],
)
def test_retraining_goes_on_inside_an_epoch(digits: OpenSetData, variant: str) -> None:
    """The run is cut in both of its epochs, so it has done every step once and had every state restored."""
    whole = Interrupting()
    retrain(digits, variant, whole)
    cut = Interrupting(stop_after=STEPS)
    with pytest.raises(KeyboardInterrupt):
        retrain(digits, variant, cut)
    assert cut.state is not None and cut.state["epoch"] == -1 and cut.state["inside"]["steps"] == STEPS
    again = Interrupting(stop_after=STEPS, before=cut)
    with pytest.raises(KeyboardInterrupt):
        retrain(digits, variant, again)
    assert again.state is not None and again.state["epoch"] == 0 and len(again.records) == 1
    rest = Interrupting(before=again)
    retrain(digits, variant, rest)
    assert len(whole.records) == 2
    assert_same(whole.records, rest.records)
    assert_same(whole.state, rest.state)


@pytest.mark.parametrize("augmentation", [*CHANGES, f"{__name__}.darker"])
def test_augmentation_and_muon_go_on_inside_an_epoch(
    digits: OpenSetData, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change and a function of one's own, with flips in turn."""
    monkeypatch.setattr(Digits, "mirrors", True)
    recipe: dict[str, Any] = {"flips": "alternating", "optimizer": "muon", "learning_rate": 0.002}
    without = {**recipe, "augmentation": "crop_flip"}
    recipe |= {"augmentation": f"crop_flip,{augmentation}", **({"cutout": 4} if augmentation == "cutout" else {})}
    whole, cut, other = Interrupting(), Interrupting(stop_after=STEPS), Interrupting()
    retrain(digits, "cross_entropy", whole, **recipe)
    with pytest.raises(KeyboardInterrupt):
        retrain(digits, "cross_entropy", cut, **recipe)
    rest = Interrupting(before=cut)
    retrain(digits, "cross_entropy", rest, **recipe)
    assert_same(whole.records, rest.records)
    assert_same(whole.state, rest.state)
    retrain(digits, "cross_entropy", other, **without)
    assert other.records != whole.records


def darker(images: Tensor, generator: torch.Generator) -> Tensor:
    """A user's own augmentation."""
    return images * torch.rand(len(images), 1, 1, 1, generator=generator)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_retraining_goes_on_inside_an_epoch_on_a_gpu(digits: OpenSetData, variant: str) -> None:
    whole, cut = Interrupting(), Interrupting(stop_after=STEPS)
    with deterministic_algorithms(True):
        retrain(digits, variant, whole, "cuda")
        with pytest.raises(KeyboardInterrupt):
            retrain(digits, variant, cut, "cuda")
        rest = Interrupting(before=cut)
        retrain(digits, variant, rest, "cuda")
    assert_same(whole.records, rest.records)
    assert_same(whole.state, rest.state)


QUICK = [("moco", "pas"), ("moco", "random")]
SEARCHES = [
    pytest.param(variant, strategy, marks=[] if (variant, strategy) in QUICK else pytest.mark.slow)
    for variant in VARIANTS
    for strategy in STRATEGIES
    if strategy != "halving"  # whose trainings go on from files in a folder: tests/strategies/test_strategies.py
]


@pytest.mark.parametrize(("variant", "strategy"), SEARCHES)
def test_a_search_goes_on_inside_an_epoch(digits: OpenSetData, variant: str, strategy: str) -> None:
    whole = Interrupting()
    expected = search(digits, variant, strategy, whole)
    # more than a warm-up epoch has: alphas and betas are learning; in the second trial, or the supernet's second epoch
    steps = {"pas": 10, "darts": 13, "single_path": 18}.get(strategy, 40)
    cut = Interrupting(stop_after=steps)
    with pytest.raises(KeyboardInterrupt):
        search(digits, variant, strategy, cut)
    assert cut.state is not None and cut.state["epoch"] == 0
    inside = (cut.state["trial"]["training"] if "trial" in cut.state else cut.state)["inside"]
    assert inside["steps"] > 0
    rest = Interrupting(before=cut)
    found = search(digits, variant, strategy, rest)
    assert len(whole.records) == (4 if strategy == "single_path" else 2)
    assert_same(whole.records, rest.records)
    assert_same(whole.state, rest.state)
    assert found == expected


def test_another_state_of_one_generator_gives_other_bits(digits: OpenSetData) -> None:
    """The comparisons above can fail."""
    cut = Interrupting(stop_after=STEPS)
    with pytest.raises(KeyboardInterrupt):
        retrain(digits, "cross_entropy", cut)
    whole, rest = Interrupting(), Interrupting(before=cut)
    assert cut.state is not None
    cut.state["inside"]["random"]["augmentation"] = torch.Generator().manual_seed(1).get_state()
    retrain(digits, "cross_entropy", whole)
    retrain(digits, "cross_entropy", rest)
    with pytest.raises(AssertionError):
        assert_same(whole.state, rest.state)
