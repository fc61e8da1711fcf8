"""Train the tiny CLIP, VAE and UNet on the shapes world: small models whose words and attention mean something."""
