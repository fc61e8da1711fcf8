"""Class names to text embeddings."""

from nerve_runtime.vocabulary.class_list import ClassList, refuse_odd_characters
from nerve_runtime.vocabulary.text_bank import EmbeddingProgress, TextBank, text_sha256
from nerve_runtime.vocabulary.text_encoder import TextEncoder
from nerve_runtime.vocabulary.vocabulary_file import vocabulary_bytes

__all__ = [
    "ClassList",
    "EmbeddingProgress",
    "TextBank",
    "TextEncoder",
    "refuse_odd_characters",
    "text_sha256",
    "vocabulary_bytes",
]
