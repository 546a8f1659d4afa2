"""Operations on tensors of two precisions in one kernel, computed in float32 and rounded once; rounded copies of
parameters, made once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Prepared:
    """Tensors that are made from parameters once, and again only if the parameters change.

    If gradients of the parameters are needed, `get` makes them at every call.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._made: tuple[Tensor, ...] = ()

    def __deepcopy__(self, memo: object) -> Prepared:
        return Prepared()

    def get(
        self, sources: tuple[Tensor, ...], key: object, make: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """The result of `make()`, kept for these sources and this key."""
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return make()
        if any(
            source.is_inference() for source in sources
        ):  # torch keeps no version of these, so changes would not be seen
            return make()
        state = (key, *((source.data_ptr(), source._version, source.device) for source in sources))
        if state != self._key:
            with torch.inference_mode(False), torch.no_grad():
                self._made = make()
            self._key = state
        return self._made


def scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """x * factor with x's shape and this dtype; factor may be float32."""
    if is_functional(x, factor):
        return (x * factor).to(dtype)
    return torch.mul(x, factor, out=torch.empty_like(x, dtype=dtype))


def scaled_sum(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """base + x * factor in x's dtype and shape; base and factor may be float32."""
    if is_functional(base, x, factor):
        return torch.addcmul(base, x, factor).to(x.dtype)
    return torch.addcmul(base, x, factor, out=torch.empty_like(x))


def residual_sum(x: Tensor, branch: Tensor, factor: Tensor, special: Tensor | None = None) -> Tensor:
    """x + branch * factor for tokens (B, L, d), in x's dtype.

    special (frames, n, d): float32, the first n tokens of every frame; their sums are float32, replace them in place,
    and are rounded for the result. frames * tokens of a frame = B * L.
    """
    total = torch.addcmul(x, branch, factor)
    if special is not None:
        frames, count, width = special.shape
        added, rounded = (tokens.view(frames, -1, width)[:, :count] for tokens in (branch, total))
        if torch.compiler.is_compiling():
            special.addcmul_(added, factor)
            rounded.copy_(special)
        else:  # without a kernel that only casts
            torch.addcmul(special, added, factor, out=rounded)
            special.addcmul_(added, factor)
    return total


def is_functional(*tensors: Tensor) -> bool:
    """Whether `out=` must not be used: one of these needs a gradient, or the compiler runs, which fuses the cast."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
