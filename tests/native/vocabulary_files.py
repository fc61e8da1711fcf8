"""Vocabulary files for the tests, written as `nerve-vocab` writes them."""

from pathlib import Path

from nerve_runtime.backends import BackendOptions, open_backend
from nerve_runtime.bundle import load_manifest
from nerve_runtime.vocabulary import TextEncoder, text_sha256
from nerve_stream.vocabulary_file import save_vocabulary

CLASSES = ("ladybug", "grass", "sky")


def write_vocabulary(bundle: Path, path: Path) -> Path:
    """Embed `CLASSES` with a bundle's text graph and write them to `path`."""
    manifest = load_manifest(bundle)
    with open_backend("ort", bundle, manifest, BackendOptions()) as backend:
        bank = TextEncoder(bundle, manifest, backend).text_bank(CLASSES, [])
        save_vocabulary(path, bank, text_sha256(manifest))
    return path
