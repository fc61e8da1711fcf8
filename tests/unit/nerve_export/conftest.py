"""The reference's tiny random networks, for the export's modules."""

from tests.unit.nerve_ref.conftest import bank, clip, frame, models, params, provider, tokenizer, unet, vae

__all__ = ["bank", "clip", "frame", "models", "params", "provider", "tokenizer", "unet", "vae"]
