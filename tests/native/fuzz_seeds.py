"""Write what the native parsers' fuzzing starts from: `python -m tests.native.fuzz_seeds FOLDER`."""

import json
import re
import shlex
import sys
from pathlib import Path

from nerve_runtime.bundle import load_manifest
from nerve_runtime.vocabulary import text_sha256
from tests.native.building import ROOT
from tests.native.vocabulary_files import write_vocabulary

BUNDLE = ROOT / "bundles" / "tiny"
WORDS = ("[0,0]", "[]", "{}", "null", "-1", "1e9", "\\\\u0000", "\\\\ud800", "<|endoftext|>", "</w>")
BYTE_PAIRS = {
    "added_tokens": [{"id": 5, "content": "<|endoftext|>", "special": True}],
    "model": {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "a</w>": 4, "<|endoftext|>": 5},
        "merges": [["a", "b</w>"]],
    },
}
"""The shape of CLIP's own tokenizer, which the tiny bundle's is not."""


def write_seeds(folder: Path) -> None:
    """Write a manifest and a vocabulary that are right, the words they are made of, and what the vocabulary has to fit."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(BUNDLE)
    manifest_bytes = (BUNDLE / "manifest.json").read_bytes()
    vocabulary_bytes = write_vocabulary(BUNDLE, folder / "vocabulary").read_bytes()
    (corpus / "manifest").write_bytes(b"m" + manifest_bytes)
    for parser in (b"v", b"h"):
        (corpus / f"vocabulary_{parser.decode()}").write_bytes(parser + vocabulary_bytes)
    (corpus / "tokenizer").write_bytes(b"t" + (BUNDLE / manifest.vocabulary.tokenizer).read_bytes())
    (corpus / "tokenizer_of_byte_pairs").write_bytes(b"t" + json.dumps(BYTE_PAIRS).encode())
    texts = b"".join(path.read_bytes() for path in corpus.iterdir())
    keys = sorted({word.decode() for word in re.findall(rb'"([A-Za-z_0-9]{2,32})"', texts)})
    (folder / "dictionary.txt").write_text("".join(f'"{word}"\n' for word in (*WORDS, *keys)))
    settings = {"NERVE_FUZZ_TEXT_SHA256": text_sha256(manifest), "NERVE_FUZZ_WIDTH": str(manifest.geometry.text_width)}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
    (folder / "settings.sh").write_text("".join(lines))


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
