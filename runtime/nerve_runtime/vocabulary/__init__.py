"""Class names to text embeddings."""

from nerve_runtime.vocabulary.class_list import ClassList, read_class_file, read_text_lines
from nerve_runtime.vocabulary.text_bank import save_vocabulary, text_sha256
from nerve_runtime.vocabulary.text_encoder import TextEncoder

__all__ = ["ClassList", "TextEncoder", "read_class_file", "read_text_lines", "save_vocabulary", "text_sha256"]
