"""Train the tiny CLIP, VAE and UNet on the world of things: small models whose words and attention mean something."""
