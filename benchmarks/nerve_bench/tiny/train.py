"""Train all tiny models and write them, with their card, where `nerve_ref` finds them."""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nerve_bench.tiny import clip, diffusion
from nerve_bench.tiny.dataset import CONTEXT_LENGTH, CaptionedScenes, ProgressFactory, captioned_scenes, make_tokenizer
from nerve_bench.tiny.loop import SEED, Phase, train
from nerve_bench.world import CLASS_NAMES, SEEDS

PHASES = {
    "clip": Phase("clip", steps=6000, peak_rate=1e-3, weight_decay=0.05, matrix_rate=3e-3),
    "clip_sharper": Phase("clip_sharper", steps=900, peak_rate=5e-4, weight_decay=0.05, matrix_rate=1.5e-3),
    "vae": Phase("vae", steps=600, peak_rate=3e-3),
    "unet": Phase("unet", steps=3200, peak_rate=1e-3),
    "unet_restart": Phase("unet_restart", steps=2800, peak_rate=7e-4),
}
SCENES = 48_000
DIFFUSION_SCENES, DIFFUSION_THINGS = 8192, 48
"""Names need many scenes, pixels that belong together few; the diffusion model names nothing and may see more things."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Where to work, where to write, on what.

    Attributes:
        out: folder that receives `clip/`, `vae/`, `unet/` and `card.json`.
        work: folder for scenes, latents and checkpoints (about 3 GB).
        device: "cpu" or "cuda".
        shorten: divide all step counts by this, for a try-out; 1 trains the real models.
    """

    out: Path
    work: Path
    device: str
    shorten: int = 1


def train_tiny(plan: TrainPlan) -> dict[str, Any]:
    """Train what is not yet trained, write the models in float16, and return the model card."""
    plan.work.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = _card_header()
    model, card["clip"] = _train_clip(plan, _clip_scenes(plan))
    _save(model, plan.out / "clip")
    make_tokenizer().save(str(plan.out / "clip" / "tokenizer.json"))
    few = _diffusion_scenes(plan)
    vae, card["vae"] = _train_vae(plan, few)
    latents = _scaled_latents(plan, vae, few)
    _save(vae, plan.out / "vae")
    unet, card["unet"] = _train_unet(plan, latents)
    _save(unet, plan.out / "unet")
    diffusion.noise_scheduler().save_pretrained(plan.out / "scheduler")
    (plan.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def train_part(plan: TrainPlan, part: str) -> None:
    """Train `clip` or `diffusion` alone, up to its last checkpoint; `train_tiny` then finds it trained.

    Two processes share the work so.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    if part == "clip":
        _train_clip(plan, _clip_scenes(plan))
    else:
        few = _diffusion_scenes(plan)
        vae, _ = _train_vae(plan, few)
        _train_unet(plan, _scaled_latents(plan, vae, few))


def _clip_scenes(plan: TrainPlan) -> CaptionedScenes:
    return captioned_scenes(plan.work, max(SCENES // plan.shorten, 128), ProgressFactory())


def _diffusion_scenes(plan: TrainPlan) -> CaptionedScenes:
    count = max(DIFFUSION_SCENES // plan.shorten, 128)
    return captioned_scenes(plan.work, count, ProgressFactory(), DIFFUSION_THINGS)


def _train_clip(plan: TrainPlan, scenes: CaptionedScenes) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(SEED)
    model = clip.build_clip().to(plan.device)
    first = _run(plan, "clip", model, clip.ClipLoss(scenes, plan.device, clip.MANY_PATCHES))
    sharper = _run(plan, "clip_sharper", model, clip.ClipLoss(scenes, plan.device, clip.FEW_PATCHES))
    return model, first | {"sharper": sharper}


def _train_vae(plan: TrainPlan, scenes: CaptionedScenes) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(SEED)
    model = diffusion.build_vae().to(plan.device)
    return model, _run(plan, "vae", model, diffusion.VaeLoss(scenes, plan.device))


def _train_unet(plan: TrainPlan, latents: torch.Tensor) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(SEED)
    model = diffusion.build_unet().to(plan.device)
    loss_of = diffusion.UnetLoss(latents, plan.device)
    first = _run(plan, "unet", model, loss_of)
    return model, first | {"restart": _run(plan, "unet_restart", model, loss_of)}


def _scaled_latents(plan: TrainPlan, vae: Any, scenes: CaptionedScenes) -> torch.Tensor:
    """Latents of unit standard deviation; the factor is written into the VAE's config, as Stable Diffusion does."""
    path = plan.work / "latents.pt"
    if not path.exists():
        partial = path.with_suffix(".tmp")
        torch.save(diffusion.encode_all(vae, scenes.rgb, plan.device, ProgressFactory()), partial)
        partial.replace(path)
    latents = torch.load(path, weights_only=True)
    factor = round(1 / latents.float().std().item(), 5)
    vae.register_to_config(scaling_factor=factor)
    return latents * factor


def _run(plan: TrainPlan, name: str, model: Any, loss_of: Any) -> dict[str, Any]:
    phase = PHASES[name]
    phase = replace(phase, steps=max(phase.steps // plan.shorten, 2))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"training {name}", total=phase.steps, losses="")
        return train(phase, model, loss_of, plan.work, _reporter(progress, task, name))


def _reporter(progress: Progress, task: TaskID, name: str) -> Callable[[int, dict[str, float]], None]:
    """Moves the bar; where stderr is a file, a line every 50 steps instead."""
    started = time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        text = " ".join(f"{key} {value:.4f}" for key, value in losses.items())
        progress.update(task, completed=step, losses=text)
        if not progress.console.is_terminal and step % 50 == 0:
            progress.console.print(f"{name} step {step} {text} {time.monotonic() - started:.0f} s")

    return report


def _save(model: Any, folder: Path) -> None:
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()


def _card_header() -> dict[str, Any]:
    return {
        "what": "CLIP, VAE and UNet trained from scratch on a synthetic world of rendered things; they know nothing else.",
        "command": "python benchmarks/run.py train-tiny",
        "licence": "Apache-2.0",
        "scenes": SCENES,
        "diffusion_scenes": DIFFUSION_SCENES,
        "diffusion_things": DIFFUSION_THINGS,
        "scene_seeds": [SEEDS["train"].start, SEEDS["train"].start + SCENES],
        "supervision": "captions (image-level words) only; label maps are never seen",
        "class_names": list(CLASS_NAMES),
        "context_length": CONTEXT_LENGTH,
        "seed": SEED,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
