"""Sends a bundle to the Hugging Face hub, with a model card made of its manifest."""
