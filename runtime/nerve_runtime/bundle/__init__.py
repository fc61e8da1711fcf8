"""A bundle on disk: its manifest, and what is verified before a file of it is used."""

from nerve_runtime.bundle.manifest import Manifest, load_manifest

__all__ = ["Manifest", "load_manifest"]
