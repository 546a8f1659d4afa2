"""Communication between training workers: the differentiable sum of memory steps over a group, and mean gradients.

The forward pass sums the steps of a group over its workers. The backward pass sums the gradients of that sum over them,
because every worker's loss depends on every worker's step. Afterwards the gradients of the weights are averaged. The
result equals that of one process with all chunks (tests/training/test_group_sync.py compares them).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.training.forward import GroupSum, alone
from pipeline.training.sampling import all_blocks

_BUCKET = 32 * 2**20  # elements per all-reduce: few calls for small networks, limited RAM for large ones


class _Context(Protocol):
    """What the forward pass keeps for the backward pass."""

    group: dist.ProcessGroup


class _SumOverBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, step: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = step.contiguous().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=group)
        return total

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=ctx.group)
        return total, None


class GroupPeers:
    """`Peers` over the default process group (gloo on CPUs, NCCL on GPUs). The process group of each block of ranks is
    made once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        # new_group is collective: every rank must make every group, in the same order
        self._groups = {block: dist.new_group(list(block)) for block in all_blocks(range(self.world))}

    def group_sum(self, block: range) -> GroupSum:
        """The differentiable sum over the workers of a block."""
        if len(block) == 1:
            return alone
        group = self._groups[block]
        return lambda step: _SumOverBlock.apply(step, group)  # type: ignore[no-untyped-call]

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all workers; parameters that a rank did not use count as zero
        there."""
        bucket: list[nn.Parameter] = []
        size = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter)
            size += parameter.numel()
            if size >= _BUCKET:
                self._average_bucket(bucket)
                bucket, size = [], 0
        if bucket:
            self._average_bucket(bucket)

    def _average_bucket(self, bucket: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all workers."""
        total = values.clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total / self.world

    def least(self, value: int) -> int:
        """The smallest of all workers' values."""
        tensor = torch.tensor([value], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return int(tensor)
