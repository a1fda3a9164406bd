"""Each replaced operation against torch's own, over all of float64 that scores come to."""

from __future__ import annotations

import pytest
import torch
from scipy import special

from nas_osr.deploy import decompositions as own

SIZES = torch.cat([torch.zeros(1), torch.logspace(-300, 2.5, 4000, dtype=torch.float64)])
BOTH = torch.cat([-SIZES.flip(0), SIZES])


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("erf", BOTH, lambda x: special.erf(x)),
        ("erfc", BOTH[BOTH < 26], lambda x: special.erfc(x)),
        ("log_ndtr", BOTH, lambda x: special.log_ndtr(x)),
        ("log1p", BOTH[BOTH > -0.999], lambda x: special.log1p(x)),
        ("expm1", BOTH, lambda x: special.expm1(x)),
    ],
)
def test_values_are_scipys(name: str, values: torch.Tensor, expected: object) -> None:
    found = getattr(own, name)(values)
    torch.testing.assert_close(found, torch.from_numpy(expected(values.numpy())), rtol=1e-12, atol=1e-300)  # type: ignore[operator]


def test_logaddexp_and_the_others_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(200, 7, dtype=torch.float64, generator=generator) * 300 for _ in range(2))
    torch.testing.assert_close(own.logaddexp(x, y), torch.logaddexp(x, y), rtol=1e-14, atol=1e-14)
    zero, infinite = torch.zeros(1, dtype=torch.float64), torch.tensor([-torch.inf], dtype=torch.float64)
    assert own.logaddexp(zero, infinite) == 0
    exact = torch.cdist(x, y[:5], compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(own.cdist(x, y[:5], 2.0, 2), exact, rtol=1e-14, atol=0)
    assert own.where_scalar(x > 0, x, 1e100).max() == 1e100
    tied = x.round(decimals=-2)
    for found, wanted in zip(own.stable_sort(tied, stable=True, dim=1), tied.sort(stable=True, dim=1), strict=True):
        assert torch.equal(found, wanted)


def test_float32_is_left_to_the_exporter() -> None:
    for function in (own.erf, own.erfc, own.log_ndtr, own.log1p, own.expm1):
        assert function(torch.ones(2)) is NotImplemented
    assert own.where_scalar(torch.tensor([True]), torch.ones(1), 1.0) is NotImplemented
