"""A bundle on disk: its manifest, and what is verified before a file of it is used."""

from nerve_runtime.bundle.graph_check import BundleGraphs
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.bundle.manifest import Manifest, load_manifest

__all__ = ["BundleGraphs", "Manifest", "bundle_folder", "load_manifest"]
