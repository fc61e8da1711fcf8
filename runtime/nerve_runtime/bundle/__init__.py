"""A bundle on disk: its manifest, and what is verified before a file of it is used."""

from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.verification import BundleGraphs

__all__ = ["BundleGraphs", "Manifest", "load_manifest"]
