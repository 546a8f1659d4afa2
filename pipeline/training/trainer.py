"""The optimisation steps of training. Ray, files and metrics are in `launch.py` and `run.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from models import Reconstructor
from pipeline.training.config import OptimizerSettings, TrainConfig
from pipeline.training.data import Batch, Source
from pipeline.training.forward import GroupSum, alone, forward_groups
from pipeline.training.objective import Objective
from pipeline.training.sampling import StepPlan, draw_batch, draw_dense_frames, plan_step

_AVERAGE_EVERY = 4  # steps between two updates of the running average, which take as long as a small optimizer step


class Peers(Protocol):
    """Communication with the other workers: `group_sync.GroupPeers`, or `Alone` without other workers."""

    rank: int
    world: int

    def group_sum(self, block: range) -> GroupSum:
        """The differentiable sum over the workers of a block."""
        ...

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all workers."""
        ...

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all workers."""
        ...

    def least(self, value: int) -> int:
        """The smallest of all workers' values."""
        ...


class Alone:
    """Peers of a process without other workers."""

    rank = 0
    world = 1

    def group_sum(self, block: range) -> GroupSum:
        """The step itself is the sum."""
        return alone

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Does nothing: they are the mean already."""

    def average(self, values: Tensor) -> Tensor:
        """The tensor itself."""
        return values

    def least(self, value: int) -> int:
        """The value itself."""
        return value


class NotFiniteError(ArithmeticError):
    """The loss or its gradient is not finite; the error contains the batch."""

    def __init__(self, step: int, batch: Batch, parts: dict[str, float]) -> None:
        super().__init__(f"loss is not finite at step {step}: {parts}")
        self.step, self.batch, self.parts = step, batch, parts


@dataclass
class Trainer:
    """Model, objective and optimizer, and the number of steps done."""

    config: TrainConfig
    model: Reconstructor
    objective: Objective
    source: Source
    peers: Peers = field(default_factory=Alone)
    step: int = 0

    def __post_init__(self) -> None:
        """Make the optimizer and, if the settings say so, the running average of the weights."""
        self.optimizer = make_optimizer(self.model, self.objective, self.config.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.mean: dict[str, Tensor] | None = None
        if self.config.optimizer.average:
            self.mean = {name: p.detach().clone() for name, p in self.model.state_dict().items()}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def plan(self) -> StepPlan:
        """The plan of the next step."""
        return plan_step(self.config.batch, self.config.seed, self.step, self.peers.world, self.peers.rank)

    def advance(self, progress: float) -> dict[str, float]:
        """One step. progress (0 to 1): of the run, for the schedule of the rates. Returns the loss, its parts and the
        norm of the gradient, as means over all workers.

        Raises NotFiniteError before the weights are changed.
        """
        config, plan = self.config, self.plan()
        drives = self.source.drives()
        drives = drives[: self.peers.least(len(drives))]
        batch = draw_batch(drives, plan, config.batch, config.seed, self.step, self.peers.rank).to(self.device)
        dense = draw_dense_frames(config.batch, config.seed, self.step, plan.length)
        total, parts = self.loss(batch, plan, dense)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.peers.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, config.optimizer.clip)
        names = ["loss", *parts, "gradient"]
        seen = self.peers.average(torch.stack([total.detach(), *parts.values(), norm.detach()]).float()).tolist()
        values = dict(zip(names, seen, strict=True))
        if not all(map(math.isfinite, values.values())):
            raise NotFiniteError(self.step, batch, values)
        set_rates(self.optimizer, config.optimizer, self.step, progress)
        self.optimizer.step()
        self.step += 1
        self._average()
        return values

    def loss(self, batch: Batch, plan: StepPlan, dense_frames: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch with the plan's scope of the memories, and its parts."""
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            outputs = forward_groups(
                self.model,
                batch.images,
                plan.group,
                memory_scope=plan.scope,
                group_sum=self.peers.group_sum(plan.block),
                dense_frames=dense_frames,
                with_points=self.config.loss.points > 0,
                orthogonalise_dtype=torch.bfloat16 if low else torch.float32,
            )
            with torch.autocast(self.device.type, enabled=False):
                result: tuple[Tensor, dict[str, Tensor]] = self.objective(outputs, batch)
        return result

    @torch.no_grad()
    def _average(self) -> None:
        if self.mean is None or self.step % _AVERAGE_EVERY:
            return
        # at the start the decay is smaller, so that the random initial weights are forgotten
        decay = min(self.config.optimizer.average**_AVERAGE_EVERY, (1 + self.step) / (50 + self.step))
        now = self.model.state_dict()
        torch._foreach_lerp_(list(self.mean.values()), [now[name] for name in self.mean], 1 - decay)

    def load_optimizer(self, state: dict[str, object]) -> None:
        """Load an optimizer's state; peak rates, weight decay and betas stay those of this run's settings."""
        mine = [{k: group[k] for k in ("peak", "weight_decay", "betas")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, settings in zip(self.optimizer.param_groups, mine, strict=True):
            group.update(settings)

    def averaged_state(self) -> dict[str, Tensor]:
        """The weights to validate and publish: the running average if there is one, else the weights themselves."""
        return self.mean if self.mean is not None else self.model.state_dict()


@torch.no_grad()
def start_near_identity(model: Reconstructor) -> None:
    """Set an untrained camera head so that it predicts no motion and fields of view of 80 by 45 degrees.

    If it predicted zeros, rotations would be undefined and the ReLU of a field of view might have no gradient.
    """
    head = model.camera_head
    bias = head.pose_branch.fc2.bias
    # every refinement round adds the bias once
    bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.8, 1.4]) / head.rounds)
    head.pose_branch.fc2.weight.mul_(0.1)


def make_optimizer(model: Reconstructor, objective: Objective, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW with up to four groups of parameters: memories or backbone, with or without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in _named(model, objective):
        matrix = parameter.ndim > 1 and "token" not in name
        groups.setdefault((".memories." in name, matrix), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak": settings.memory_rate if memory else settings.backbone_rate,
                "weight_decay": settings.weight_decay if matrix else 0.0,
            }
            for (memory, matrix), parameters in sorted(groups.items())
        ],
        lr=settings.backbone_rate,
        betas=settings.betas,
        foreach=True,
    )


def _named(model: Reconstructor, objective: Objective) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in (("model", model), ("objective", objective)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter


def rate_share(settings: OptimizerSettings, step: int, progress: float) -> float:
    """Rate over peak rate: linear warm-up over the first steps, then a cosine over the run's progress (0 to 1)."""
    warm = min((step + 1) / max(settings.warmup, 1), 1.0)
    low = settings.final_share
    return warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))))


def set_rates(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, progress: float) -> None:
    """Set the rate of every group for a step."""
    share = rate_share(settings, step, progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
