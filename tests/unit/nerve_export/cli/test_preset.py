"""`nerve-build preset`: a preset in full, and what it costs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nerve_export.cli.build import app
from nerve_export.presets.files import load_preset, presets
from nerve_runtime.errors import UsageError
from tests.data.own_presets import DIFFUSION, DINOV3, SMALL_CLIP, written


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["preset", *words])


def test_what_is_shown_is_a_preset_file_of_the_same_preset(tmp_path: Path) -> None:
    shown = run("show", "tiny")
    assert shown.exit_code == 0
    again = load_preset(written(tmp_path, shown.stdout))
    assert (again.params, again.backbones) == (presets()["tiny"].params, presets()["tiny"].backbones)
    assert "#   attention       1.339            4 MB" in shown.stdout


def test_a_check_lists_networks_sizes_layers_and_costs(tmp_path: Path) -> None:
    lines = run("check", str(written(tmp_path, DIFFUSION))).stdout.splitlines()
    assert lines[:7] == [
        "mine: another diffusion model",
        "  clip       mine's clip, a configuration without weights",
        "  affinity   mine's affinity, a configuration without weights",
        "  frame      64 x 64 px, for CLIP 96 x 192 px",
        "  tokens     32 x 32",
        "  layer      down_blocks.0.attentions.0.transformer_blocks.0: 2 heads of 8 on 32 x 32",
        "  layer      up_blocks.1.attentions.1.transformer_blocks.0: 2 heads of 8 on 32 x 32",
    ]
    assert [line.split()[0] for line in lines[7:]] == ["stage", "text", "scores", "attention", "mix", "walk", "cold"]


def test_the_facts_of_a_check_are_one_json_object(tmp_path: Path) -> None:
    facts = json.loads(run("check", str(written(tmp_path, DINOV3)), "--json").stdout)
    stages = facts["stages"]
    assert facts["gmac"] == pytest.approx(sum(stages[name]["gmac"] for name in stages if name != "text"), abs=2e-3)
    assert facts["weight_bytes"] == sum(stages[name]["weight_bytes"] for name in stages if name != "text")
    assert facts["layers"][0] == {"name": "model.layer.1", "heads": 2, "width": 16, "grid_hw": [4, 8]}


@pytest.mark.parametrize(
    ("source", "shown"),
    [("name = 'clip-vit-base-patch16'", "clip-vit-base-patch16, as the weight lock pins it"), ("path = 'here'", "mine's clip from ")],
)  # fmt: skip
def test_a_check_says_where_weights_come_from(source: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    vision = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 16, "image_size": 96}
    (tmp_path / "here" / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": vision}))
    text = DINOV3.replace(SMALL_CLIP, f"[networks.clip]\n{source}\n").replace(
        "[method]", '[method]\nclip_mode = "naclip"'
    )
    assert shown in run("check", str(written(tmp_path, text))).stdout


def test_what_is_wrong_with_a_file_is_told_before_anything_is_counted(tmp_path: Path) -> None:
    ended = run("check", str(written(tmp_path, DINOV3.replace("steps", "stepz"))))
    assert isinstance(ended.exception, UsageError)
    assert "mine.toml:37: method.stepz is no field of a preset" in str(ended.exception)
