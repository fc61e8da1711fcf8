"""Vocabulary files: class names embedded once, for devices that need neither tokenizer nor text graph."""

from pathlib import Path

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.vocabulary import TextBank, vocabulary_bytes


def save_vocabulary(path: Path, bank: TextBank, text_sha: str) -> None:
    """Write a bank to a safetensors file that a device can use without the text graph.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_bytes_whole(path, vocabulary_bytes(bank, text_sha))
