"""One resumable training loop for all three models."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nerve_bench.tiny.muon import Muon, split_parameters
from nerve_runtime.errors import UsageError

Losses = dict[str, Tensor]
LossFunction = Callable[[Any, int], Losses]
CHECKPOINT_EVERY = 100
SEED = 0


def step_rng(step: int) -> np.random.Generator:
    """The random source of one training step, the same whether or not the run was interrupted before it."""
    return np.random.default_rng([SEED, 77, step])


@dataclass(frozen=True, slots=True)
class Phase:
    """What is trained, how long and how fast.

    Attributes:
        name: name of the phase and of its checkpoint.
        steps: optimiser steps.
        peak_rate: peak of the one-cycle learning rate (AdamW).
        weight_decay: decoupled weight decay.
        matrix_rate: peak learning rate of the hidden layers' matrices under Muon; None leaves them to AdamW.
        warmup: share of the steps in which the rate rises.
    """

    name: str
    steps: int
    peak_rate: float
    weight_decay: float = 0.01
    matrix_rate: float | None = None
    warmup: float = 0.1


def train(
    phase: Phase, model: nn.Module, loss_of: LossFunction, folder: Path, report: Callable[[int, dict[str, float]], None]
) -> dict[str, Any]:
    """Train `model` in place, going on from the last checkpoint in `folder`.

    Args:
        phase: steps and rates.
        model: the network; its weights are overwritten by the checkpoint, if there is one.
        loss_of: named losses of one batch; their sum is minimised.
        folder: where `<phase>.pt` is written every `CHECKPOINT_EVERY` steps.
        report: called after each step with the step and the smoothed losses.

    Returns:
        The record for the model card: steps, seconds of training, smoothed losses at the end.

    Raises:
        UsageError: the checkpoint is of a training of another length.
    """
    optimizers = _optimizers(phase, model)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, o.defaults["lr"], phase.steps, pct_start=phase.warmup)
        for o in optimizers
    ]
    path = folder / f"{phase.name}.pt"
    record: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": {}}
    if path.exists():
        record = _resume(path, phase, model, [*optimizers, *schedules])
    model.train()
    for step in range(record["step"], phase.steps):
        torch.manual_seed(step)  # dropout and posterior samples: equal after a resume
        started = time.monotonic()
        losses = loss_of(model, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        _record(record, step, losses, time.monotonic() - started)
        report(step + 1, record["losses"])
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == phase.steps:
            _checkpoint(path, model, [*optimizers, *schedules], record)
    model.eval()
    return {"steps": phase.steps, "seconds": round(record["seconds"], 1), "losses": record["losses"]}


def _record(record: dict[str, Any], step: int, losses: Losses, seconds: float) -> None:
    old = record["losses"]
    record["losses"] = {
        name: round(0.98 * old.get(name, loss.item()) + 0.02 * loss.item(), 6) for name, loss in losses.items()
    }
    record["step"], record["seconds"] = step + 1, record["seconds"] + seconds


def _optimizers(phase: Phase, model: nn.Module) -> list[torch.optim.Optimizer]:
    if phase.matrix_rate is None:
        return [torch.optim.AdamW(model.parameters(), phase.peak_rate, weight_decay=phase.weight_decay)]
    matrices, others = split_parameters(model)
    return [
        torch.optim.AdamW(others, phase.peak_rate, weight_decay=phase.weight_decay),
        Muon(matrices, phase.matrix_rate, phase.weight_decay),
    ]


def _checkpoint(path: Path, model: nn.Module, parts: list[Any], record: dict[str, Any]) -> None:
    partial = path.with_suffix(".tmp")
    state = {"model": model.state_dict(), "training": [part.state_dict() for part in parts], "record": record}
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, phase: Phase, model: nn.Module, parts: list[Any]) -> dict[str, Any]:
    state = torch.load(path, weights_only=True)
    steps = state["training"][-1]["total_steps"]
    if steps != phase.steps:
        raise UsageError(
            f"{path} is of a training of {steps} steps, this one has {phase.steps}; "
            "choose another folder with --work, or remove the old one"
        )
    model.load_state_dict(state["model"])
    for part, saved in zip(parts, state["training"], strict=True):
        part.load_state_dict(saved)
    return dict(state["record"])
