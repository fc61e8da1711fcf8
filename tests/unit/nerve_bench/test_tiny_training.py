"""Training that was interrupted ends with the very same weights, and says what it did."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nerve_bench.tiny import clip, loop
from nerve_bench.tiny import train as train_module
from nerve_bench.tiny.dataset import CONTEXT_LENGTH, CaptionedScenes, captioned_scenes, make_tokenizer
from nerve_bench.tiny.loop import Phase, step_rng, train
from nerve_bench.tiny.train import TrainPlan, train_part, train_tiny
from nerve_bench.world import CLASS_NAMES, STUFF, words_of
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.weights.architectures import TINY, Backbones
from nerve_ref.weights.networks import open_models
from nerve_runtime.errors import UsageError
from tests.unit.nerve_bench.conftest import quietly

PHASE = Phase("small", steps=12, peak_rate=0.05)
SHORTEN = 1000
Report = Callable[[int, dict[str, float]], None]


class InterruptedRunError(Exception):
    """Stands for Ctrl-C and for a lost machine."""


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def losses(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
    pixels = torch.from_numpy(step_rng(step).normal(size=(4, 3)).astype(np.float32))
    return {"fit": (model(pixels) - pixels.sum(1, keepdim=True)).square().mean()}


def stop_at(step: int) -> Report:
    def report(done: int, _: dict[str, float]) -> None:
        if done == step:
            raise InterruptedRunError

    return report


def nothing(step: int, smoothed: dict[str, float]) -> None:
    """Report to nobody."""


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("moment", [2, 5, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
    whole, resumed = small_model(), small_model()
    (tmp_path / "whole").mkdir()
    record = train(PHASE, whole, losses, tmp_path / "whole", nothing)
    with pytest.raises(InterruptedRunError):
        train(PHASE, resumed, losses, tmp_path, stop_at(moment))
    fresh = small_model()
    again = train(PHASE, fresh, losses, tmp_path, nothing)
    assert all(map(torch.equal, weights(whole), weights(fresh)))
    assert again["losses"] == record["losses"]
    assert again["steps"] == 12
    assert not all(map(torch.equal, weights(whole), weights(small_model())))


def test_a_finished_training_is_read_back_without_a_step(tmp_path: Path) -> None:
    first, second = small_model(), small_model()
    train(PHASE, first, losses, tmp_path, nothing)
    train(PHASE, second, losses, tmp_path, stop_at(1))
    assert all(map(torch.equal, weights(first), weights(second)))
    assert not second.training


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    train(PHASE, small_model(), losses, tmp_path, nothing)
    with pytest.raises(UsageError, match=r"small\.pt is of a training of 12 steps, this one has 24; choose another"):
        train(Phase("small", 24, 0.05), small_model(), losses, tmp_path, nothing)


def test_a_checkpoint_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    train(PHASE, small_model(), losses, tmp_path, nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["small.pt"]


def test_captions_name_what_is_there_and_nothing_else() -> None:
    present = np.zeros((1, len(CLASS_NAMES)), bool)
    present[0, [0, 7, 9]] = True
    scenes = CaptionedScenes(np.zeros((1, 2, 2, 3), np.uint8), present)
    caption = scenes.caption(0, np.random.default_rng(0))
    nouns = caption.removeprefix("a photo of a ").removesuffix(".").split(" and a ")
    class_of = {word: name for name in CLASS_NAMES for word in words_of(name)}
    assert sorted(class_of[noun] for noun in nouns) == sorted(CLASS_NAMES[index] for index in (0, 7, 9))


def test_a_noun_that_explains_a_few_patches_gains_nothing_by_explaining_more() -> None:
    share = torch.zeros(1, 64, len(CLASS_NAMES))
    share[:, :12, len(STUFF)] = 1
    share[:, 12:, 0] = 1
    best = clip._best_shares(share, (20, 12))
    assert best[0, [0, len(STUFF)]].tolist() == [1, 1]
    assert best.sum() == 2
    share[:, :6, len(STUFF)] = 0
    assert clip._best_shares(share, (20, 12))[0, len(STUFF)] == 0.5


def test_the_tokenizer_knows_every_word_of_the_world_and_fills_to_one_length() -> None:
    tokenizer = make_tokenizer()
    unknown, end = tokenizer.token_to_id("<unk>"), tokenizer.token_to_id("<end>")
    for name in CLASS_NAMES:
        ids = tokenizer.encode(f"a photo of a {name}.").ids
        assert len(ids) == CONTEXT_LENGTH
        assert unknown not in ids
        assert ids[-1] == end
    assert unknown in tokenizer.encode("a photo of a hovercraft.").ids


def test_scenes_are_read_back_as_they_were_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = captioned_scenes(tmp_path, 3, quietly)
    monkeypatch.setattr("nerve_bench.tiny.dataset.make_scene", lambda *_, **__: pytest.fail("they were drawn again"))
    again = captioned_scenes(tmp_path, 3, quietly)
    np.testing.assert_array_equal(drawn.rgb, again.rgb)
    np.testing.assert_array_equal(drawn.present, again.present)
    assert drawn.present.any(1).all()


def test_scenes_of_other_things_are_kept_apart_and_captioned_with_the_words_of_the_world(tmp_path: Path) -> None:
    usual, more = captioned_scenes(tmp_path, 12, quietly), captioned_scenes(tmp_path, 12, quietly, things=60)
    assert usual.present.shape == more.present.shape
    assert (usual.rgb != more.rgb).any()
    things = usual.present[:, len(STUFF) :].any(1), more.present[:, len(STUFF) :].any(1)
    assert things[0].sum() > things[1].sum() > 0


def run_shortened(out: Path, work: Path) -> dict[str, Any]:
    return train_tiny(TrainPlan(out, work, "cpu", SHORTEN))


@pytest.mark.slow
def test_the_whole_command_resumes_to_the_same_models_and_writes_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = run_shortened(tmp_path / "one", tmp_path / "work-one")
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    reporter = train_module._reporter
    monkeypatch.setattr(
        train_module, "_reporter", lambda bar, task, name: stop_at(2) if name == "unet" else reporter(bar, task, name)
    )
    with pytest.raises(InterruptedRunError):
        run_shortened(tmp_path / "two", tmp_path / "work-two")
    monkeypatch.setattr(train_module, "_reporter", reporter)
    for part in ("diffusion", "clip"):
        train_part(TrainPlan(tmp_path / "two", tmp_path / "work-two", "cpu", SHORTEN), part)
    assert not list((tmp_path / "two").rglob("unet/*")), "a part writes checkpoints alone"
    monkeypatch.setattr(clip.ClipLoss, "__call__", lambda *_: pytest.fail("a part was trained again"))
    run_shortened(tmp_path / "two", tmp_path / "work-two")
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.safetensors"))
    assert len(names) == 3
    for name in names:
        one, two = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
        assert all(torch.equal(one[key], two[key]) for key in one)
    written = json.loads((tmp_path / "one" / "card.json").read_text())
    assert written == json.loads(json.dumps(card))
    assert [written[phase]["steps"] for phase in ("clip", "vae", "unet")] == [6, 2, 3]
    assert written["unet"]["restart"]["steps"] == written["clip"]["sharper"]["steps"] == 2
    files = {role: tmp_path / "one" / role for role in ("clip", "vae", "unet", "scheduler")}
    provider = open_models(Backbones(TINY, TINY), files, context_tokens=4).provider
    assert isinstance(provider, StableDiffusion)
    assert provider.vae.config.scaling_factor != 0.18215
