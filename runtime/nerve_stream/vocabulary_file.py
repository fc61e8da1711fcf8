"""Vocabulary files: class names embedded once, for devices that need neither tokenizer nor text graph."""

import io
from pathlib import Path

import numpy as np

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.vocabulary import TextBank


def save_vocabulary(path: Path, bank: TextBank, text_sha: str) -> None:
    """Write a bank to an `.npz` file that a device can use without the text graph.

    Raises:
        ResourceError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text_embeddings=bank.text_embeddings,
        class_rows=bank.class_rows,
        class_names=np.array(bank.class_names),
        has_background=np.array(bank.has_background),
        text_sha256=np.array(text_sha),
    )
    write_bytes_whole(path, buffer.getvalue())
