"""Starts a training run: in this process, or on the workers of a Ray TorchTrainer."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import storage
from pipeline.common.root_cause import root_cause
from pipeline.training.config import TrainConfig
from pipeline.training.run import TrainingError, train

# Long, because a worker may wait in a collective while another one validates, saves or reads slow storage.
_COLLECTIVE_TIMEOUT_S = 1800
# Restarts of the group after a lost worker: enough for one lost node per day, but a hopeless run ends.
_RESTARTS = 2


def launch(config: TrainConfig) -> Path:
    """Run to the end; returns the file of the final weights.

    With 0 or 1 workers, it trains in this process without Ray. With more, it starts a TorchTrainer group over gloo, or
    over NCCL with use_gpu; `output` must then be in a folder that all nodes share. Raises TrainingError, ClusterError
    and the errors of `train`.
    """
    if config.use_gpu and not config.workers and not torch.cuda.is_available():
        raise TrainingError("use_gpu: there is no CUDA device on this machine")
    config = replace(config, output=storage.absolute(config.output))
    if config.pool is not None:
        config = replace(config, pool=storage.absolute(config.pool))
    if config.workers <= 1:
        return train(config)
    return _launch_group(config)


def _launch_group(config: TrainConfig) -> Path:
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipeline.common.process_group import torch_config
    from pipeline.common.ray_session import start_ray

    start_ray(ranks=config.workers)
    with tempfile.TemporaryDirectory(prefix="city-training-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config},
            torch_config=torch_config(config.use_gpu, _COLLECTIVE_TIMEOUT_S),
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=config.use_gpu),
            # Ray stores no checkpoints: after a restart, `train` resumes from the run's own last checkpoint
            run_config=ray.train.RunConfig(
                storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=_RESTARTS)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise TrainingError(f"the training group failed: {root_cause(error)}") from error
    return Path(config.output) / "final.safetensors"


def _worker(arguments: dict[str, TrainConfig]) -> None:
    """The function that TorchTrainer runs on every rank."""
    import ray.train.torch

    from pipeline.training.group_sync import GroupPeers

    config = arguments["config"]
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train(config, peers=GroupPeers(device), device=device)
