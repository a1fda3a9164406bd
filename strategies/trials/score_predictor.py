"""The score of a network from what was chosen for it and from its size, by a Gaussian process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nas_osr.data.sources.base import Shape
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.strategies.trials.study import list_choices

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

SMALLEST = 1e-9  # standard deviation of a size below which it says nothing

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Description:
    """What a network is to the predictor."""

    chosen: Mapping[str, tuple[str, tuple[str, ...]]]
    "by the name of a choice: what was chosen, and of what."
    sizes: tuple[float, ...]
    "numbers of its size, each to be scaled."

    @classmethod
    def of(cls, architecture: Architecture, image_shape: Shape) -> Description:
        """That of the network of an architecture: its choices, and the logarithms of its parameters and MACs."""
        chosen = {name: (str(value), tuple(map(str, others))) for name, value, others in list_choices(architecture)}
        sizes = network_sizes(architecture, image_shape, memory=False)
        return cls(chosen, (log(sizes.parameters), log(sizes.macs)))


class ScorePredictor:
    """Learns scores: what each choice adds, what choices do together, and noise (Rasmussen and Williams 2006, 2.2).

    Args:
        rows: at least two networks.
        scores: of them [networks].
        kernel: how smooth scores are, and how noisy; learned from these where it is not given.
    """

    def __init__(self, rows: Sequence[Description], scores: Array, kernel: Kernel | None = None) -> None:
        self.names = sorted(
            {(name, other) for row in rows for name, (_, others) in row.chosen.items() for other in others}
        )
        sizes = np.array([row.sizes for row in rows])
        self.middle, self.spread = sizes.mean(axis=0), sizes.std(axis=0)
        self.process = fit_process(self.encode(rows), scores, kernel)

    @property
    def kernel(self) -> Kernel:
        """What was learned of smoothness and noise, or given."""
        return self.process.kernel_

    def predict(self, rows: Sequence[Description]) -> Array:
        """The expected score of each network [networks]."""
        with threadpool_limits(1):
            return np.asarray(self.process.predict(self.encode(rows)), dtype=np.float64)

    def deviation(self, rows: Sequence[Description]) -> Array:
        """How far each score may be from what is expected, its noise included: standard deviations [networks]."""
        with threadpool_limits(1):
            return np.asarray(self.process.predict(self.encode(rows), return_std=True)[1], dtype=np.float64)

    def encode(self, rows: Sequence[Description]) -> Array:
        """A one for everything chosen, scaled sizes, and a one for all [networks, features]."""
        chosen = [{(name, value) for name, (value, _) in row.chosen.items()} for row in rows]
        ones = np.array([[float(name in own) for name in self.names] for own in chosen])
        told = self.spread > SMALLEST
        sizes = (np.array([row.sizes for row in rows]) - self.middle)[:, told] / self.spread[told]
        return np.hstack([ones, sizes, np.ones((len(rows), 1))])


def fit_process(x: Array, scores: Array, kernel: Kernel | None) -> GaussianProcessRegressor:
    """A Gaussian process given scores [networks]; without a kernel it learns one by their marginal likelihood."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    weight = (1e-2, 1e2)
    added = ConstantKernel(1.0, weight) * DotProduct(1.0, weight)
    together = ConstantKernel(1.0, weight) * RBF(2.0, (0.5, 50.0))
    noise = WhiteKernel(0.5, (1e-2, 10.0))
    process = GaussianProcessRegressor(
        kernel or added + together + noise, optimizer=None if kernel else "fmin_l_bfgs_b", normalize_y=True
    )
    with warnings.catch_warnings(), threadpool_limits(1):  # threads take ten times as long for so small matrices
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound is as good an answer
        return process.fit(x, scores)
