"""Linear layers that are distributed over the ranks of a process group (tensor parallelism), by torch or by transformers.

The weight of such a layer is a `DTensor`.  A layer that takes part of the inputs on each rank (`RowwiseParallel`) gives its whole
output everywhere. So once its input is gathered, an edit acts there as usual; every rank does this and takes the same decision.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def whole(value: Tensor, module: Any) -> Tensor:
    """What enters a linear, its parts put together; of a module that is not spread the value as it is."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()  # type: ignore[operator]
    weight: Any = getattr(module, "weight", None)
    width = getattr(module, "in_features", None)
    if not is_spread(weight) or not isinstance(width, int) or value.shape[-1] == width:
        return value
    from torch.distributed.tensor import DTensor, Shard

    shape: Any = (*value.shape[:-1], width)
    stride = value.new_empty(shape, device="meta").stride()
    mesh: Any = weight.device_mesh
    spread: Any = DTensor.from_local(value, mesh, [Shard(-1)], run_check=False, shape=shape, stride=stride)
    return spread.full_tensor()


def is_spread(weight: Any) -> bool:
    """Whether a weight is a `DTensor`."""
    return hasattr(weight, "full_tensor") and hasattr(weight, "device_mesh")


def gives_parts(module: Any) -> bool:
    """Whether each rank has another part of a linear's outputs, so that no rank can change them as a whole."""
    weight: Any = getattr(module, "weight", None)
    if not is_spread(weight) or weight.device_mesh.size() == 1:
        return False
    return any(getattr(placement, "dim", None) == 0 for placement in weight.placements)
