"""Presets: files that say what is built, and how they are read and checked."""
