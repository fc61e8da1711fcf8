"""Preset files of networks that no shipped preset names, small enough to be built in a test."""

from pathlib import Path

SMALL_CLIP = """
[networks.clip.config]
projection_dim = 32
[networks.clip.config.text_config]
vocab_size = 512
bos_token_id = 510
eos_token_id = 511
max_position_embeddings = 64
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
[networks.clip.config.vision_config]
hidden_size = 48
intermediate_size = 96
num_hidden_layers = 3
num_attention_heads = 4
image_size = 96
patch_size = 32
hidden_act = "gelu"
"""
"""CLIP with patches of 32 pixels, as B/32 has, and an activation other than OpenAI's."""

DIFFUSION = f"""# A UNet of two levels without a middle, and an autoencoder of eight channels that halves once.
about = "another diffusion model"
{SMALL_CLIP}
[networks.affinity.config.unet]
block_out_channels = [16, 32]
down_block_types = ["CrossAttnDownBlock2D", "DownBlock2D"]
mid_block_type = "null"
up_block_types = ["UpBlock2D", "CrossAttnUpBlock2D"]
layers_per_block = [1, 2]
attention_head_dim = [2, 4]
cross_attention_dim = 24
in_channels = 8
out_channels = 8
norm_num_groups = 8

[networks.affinity.config.vae]
block_out_channels = [16, 16]
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
latent_channels = 8
norm_num_groups = 8
use_quant_conv = false
use_post_quant_conv = false

[method]
size_hw = [64, 64]
clip_size_hw = [96, 192]
clip_mode = "naclip"
layers = ["down_blocks.0.attentions.0", "up_blocks.1.attentions.1"]
local_features = "latent"
pooled_hw = [8, 8]
steps = 4
"""
TINY_AUTOENCODER = DIFFUSION.replace('local_features = "latent"', 'local_features = "keys"').replace(
    "[method]",
    """[networks.vae.config]
encoder_block_out_channels = [8, 8, 8]
decoder_block_out_channels = [8, 8, 8]
num_encoder_blocks = [1, 1, 1]
num_decoder_blocks = [1, 1, 1]
latent_channels = 8

[method]""",
)
"""The same with an AutoencoderTiny, which halves twice, in place of its own autoencoder."""
DINOV3 = f"""about = "DINOv3 with registers"
{SMALL_CLIP}
[networks.affinity.config]
model_type = "dinov3_vit"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 3
num_attention_heads = 2
num_register_tokens = 4
use_gated_mlp = true

[method]
size_hw = [64, 128]
clip_size_hw = [96, 96]
layers = ["model.layer.1", "model.layer.2"]
pooled_hw = [4, 4]
steps = 4
"""
DINOV2_REGISTERS = DINOV3.replace("dinov3_vit", "dinov2_with_registers").replace("model.layer", "encoder.layer")
DINOV2_REGISTERS = DINOV2_REGISTERS.replace("intermediate_size = 48\n", "").replace("use_gated_mlp = true\n", "")
ONE_TOWER = f"""about = "CLIP alone"
{SMALL_CLIP}
[networks.affinity]
name = "clip"

[method]
size_hw = [64, 128]
clip_size_hw = [128, 256]
clip_mode = "naclip"
layers = ["vision_model.encoder.layers.2"]
pooled_hw = [2, 4]
steps = 4
"""
"""CLIP's own tower says both; the layer is that of its last block, which is read otherwise than it runs."""
RADIO = (
    DINOV3.replace("dinov3_vit", "radio")
    .replace("model.layer", "encoder.layer")
    .replace("intermediate_size = 48\n", "")
)
RADIO = RADIO.replace(
    "num_register_tokens = 4\nuse_gated_mlp = true\n", "num_registers = 5\nmax_img_size = 512\nuse_swiglu_ffn = true\n"
)
LINEAR = DINOV3.replace("[method]", '[method]\naffinity = "linear"\nsharpen = 1.0\nkey_norm = false')
"""Affinity by factors, of a network without a latent."""
EVERY_KIND = {
    "diffusion": DIFFUSION,
    "tiny-autoencoder": TINY_AUTOENCODER,
    "dinov3": DINOV3,
    "dinov2-registers": DINOV2_REGISTERS,
    "one-tower": ONE_TOWER,
    "radio": RADIO,
    "linear": LINEAR,
}


def written(folder: Path, text: str, name: str = "mine") -> Path:
    """A preset file of that text."""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path
