"""Class lists to text banks with a bundle's own tokenizer and text graph, opened when first needed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from nerve_runtime.backends.base import Backend, Session
from nerve_runtime.bundle.manifest import Manifest, verify_file
from nerve_runtime.errors import UsageError
from nerve_runtime.labels import CLASSES_LIMIT
from nerve_runtime.vocabulary.class_list import ClassList, split_classes, strings_of
from nerve_runtime.vocabulary.text_bank import (
    EmbeddingProgress,
    TextBank,
    build_text_bank,
    chosen_templates,
    text_sha256,
)
from nerve_runtime.vocabulary.tokenizer import PromptTokenizer
from nerve_runtime.vocabulary.vocabulary_file import load_vocabulary

Classes = str | Iterable[str] | ClassList | Path
"""`"a; b, c"`, an iterable with one string a class, a checked list, or the path of a vocabulary file (`nerve-vocab`)."""


def default_cache_dir() -> Path | None:
    """Where text embeddings are kept between runs: the user's cache folder; None for a user without a home."""
    try:
        return platformdirs.user_cache_path("nerve-deploy") / "text"
    except RuntimeError:  # a container's user that is in no password file
        return None


class TextEncoder:
    """Turns class lists into text banks; keeps the tokenizer and the text graph once they were needed.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest.
        backend: runs the text graph.
        templates: name of a template set, templates with `{}`, or None for the bundle's default.
        cache_dir: folder of the disk cache, None for none.
        strict: refuse what is otherwise a warning.
        progress: told how many prompts of a list are embedded; not called for what is in the cache.

    Raises:
        UsageError: the templates are not usable.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        backend: Backend,
        *,
        templates: str | Iterable[str] | None = None,
        cache_dir: Path | None = None,
        strict: bool = False,
        progress: EmbeddingProgress | None = None,
    ) -> None:
        self._bundle = bundle
        self._manifest = manifest
        self._backend = backend
        self._templates = chosen_templates(manifest, templates)
        self._cache_dir = cache_dir
        self._strict = strict
        self._progress = progress
        self._tokenizer: PromptTokenizer | None = None
        self._session: Session | None = None

    def text_bank(self, classes: Classes, background: Iterable[str] = ()) -> TextBank:
        """The embeddings of a class list, or those of a vocabulary file.

        Raises:
            UsageError: the list or the file is not usable, or has more classes than the bundle's graphs take.
            BundleError: the tokenizer or the text graph is not what the manifest says.
        """
        background = strings_of("the background", background)
        if isinstance(classes, Path):
            if background:
                raise UsageError("background words are part of a vocabulary file; give them to nerve-vocab instead")
            bank = load_vocabulary(classes, text_sha256(self._manifest), self._manifest.geometry.text_width)
            self._refuse_too_many(len(bank.class_names))
            return bank
        class_list = self._checked(classes, background)
        self._refuse_too_many(len(class_list.names))
        bank = build_text_bank(
            class_list, self._templates, self._encode, text_sha256(self._manifest), self._cache_dir, self._progress
        )
        class_list.refuse_without_rival()
        return bank

    def _checked(self, classes: str | Iterable[str] | ClassList, background: Sequence[str]) -> ClassList:
        if isinstance(classes, ClassList):
            if background:
                raise UsageError("background words are part of a ClassList; give them to ClassList.of instead")
            return classes
        named = split_classes(classes) if isinstance(classes, str) else strings_of("the class list", classes)
        self._refuse_too_many(len(named) + bool(background))  # before each word is looked at
        return ClassList.of(named, background, strict=self._strict)

    def _refuse_too_many(self, count: int) -> None:
        most = self._manifest.geometry.max_classes
        if count > most:
            way_out = "split the list into several runs"
            if count <= CLASSES_LIMIT:
                way_out = f"name fewer, or build one for more with nerve-build --max-classes {count}"
            raise UsageError(
                f"{count} classes are active, background included, this bundle takes at most {most}; {way_out}"
            )

    def _encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        if self._tokenizer is None:
            vocabulary = self._manifest.vocabulary
            path = verify_file(self._bundle, self._manifest, vocabulary.tokenizer)
            self._tokenizer = PromptTokenizer(path, vocabulary)
        token_ids = self._tokenizer.encode(prompts, templates=self._templates, strict=self._strict)
        if self._session is None:
            self._session = self._backend.open_session("text")
        return self._session.run({"token_ids": token_ids})["text_embeddings"]
