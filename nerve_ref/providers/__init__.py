"""Where affinity comes from: Stable Diffusion, DINOv2."""
