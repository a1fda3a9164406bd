"""The same bits from the same seed on a GPU too: `--deterministic`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from nas_osr.errors import UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, torch uses deterministic algorithms only, and what it was set to before comes back afterwards.

    On a CPU nothing changes: with the same number of threads its results are the same anyway. Enter it before the GPU
    computes: cuBLAS reads its workspace setting (NVIDIA, cuBLAS, results reproducibility) at its first call.

    Args:
        wanted: False does nothing.

    Raises:
        UserError: an operation has no deterministic algorithm on this device.
    """
    if not wanted:
        yield
        return
    import torch

    os.environ.setdefault(WORKSPACE, ":4096:8")
    algorithms, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        reason = str(error).partition(",")[0]
        raise UserError(f"{reason}: train without --deterministic, or on the CPU") from error
    finally:
        torch.use_deterministic_algorithms(algorithms)
        torch.backends.cudnn.benchmark = benchmark
