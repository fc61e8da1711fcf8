"""Write what the native parsers' fuzzing starts from: `python -m tests.native.fuzz_seeds FOLDER`."""

import shlex
import sys
from pathlib import Path

from nerve_runtime.bundle import load_manifest
from nerve_runtime.vocabulary import text_sha256
from tests.native.building import ROOT
from tests.native.vocabulary_files import write_vocabulary

BUNDLE = ROOT / "bundles" / "tiny"
WORDS = (
    "PK\\x01\\x02",
    "PK\\x03\\x04",
    "PK\\x05\\x06",
    "\\x93NUMPY",
    "descr",
    "fortran_order",
    "True",
    "<f4",
    "<i8",
    "<U",
)


def write_seeds(folder: Path) -> None:
    """Write a manifest and a vocabulary that are right, the words they are made of, and what the vocabulary has to fit."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(BUNDLE)
    vocabulary = write_vocabulary(BUNDLE, folder / "vocabulary.npz")
    (corpus / "manifest").write_bytes(b"m" + (BUNDLE / "manifest.json").read_bytes())
    (corpus / "vocabulary").write_bytes(b"v" + vocabulary.read_bytes())
    (folder / "dictionary.txt").write_text("".join(f'"{word}"\n' for word in WORDS))
    settings = {"NERVE_FUZZ_TEXT_SHA256": text_sha256(manifest), "NERVE_FUZZ_WIDTH": str(manifest.geometry.text_width)}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
    (folder / "settings.sh").write_text("".join(lines))


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
