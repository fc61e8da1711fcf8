"""Weights from the Hugging Face hub: the transfer, and what a user sees of it."""
