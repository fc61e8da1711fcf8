"""Prompts to token ids, with the bundle's own tokenizer and its rules."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from nerve_runtime.bundle.manifest import Vocabulary
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.vocabulary.class_list import warn_or_refuse

WORDS_SHOWN = 100


class PromptTokenizer:
    """The bundle's tokenizer, padding and cutting to the length that the text graph reads.

    Args:
        path: `tokenizer.json`, already verified.
        vocabulary: the manifest's part about it.

    Raises:
        BundleError: the file is no tokenizer, or lacks the end or unknown token that the manifest names.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for any file it cannot read
            raise BundleError(f"{path} is not a tokenizer.json: {error}; rebuild the bundle") from error
        self._context_length = vocabulary.context_length
        self._end_id = self._named_id(path, vocabulary.end_token)
        self._unknown_id = self._named_id(path, vocabulary.unknown_token) if vocabulary.unknown_token else None
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {token_id for token_id, token in added.items() if token.special} | {self._end_id}
        self._tokenizer.enable_truncation(max_length=self._context_length)
        self._tokenizer.enable_padding(length=self._context_length, pad_id=self._end_id, pad_token=vocabulary.end_token)

    def _named_id(self, path: Path, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise BundleError(f"{path} has no token {token!r}, which the manifest names; rebuild the bundle")
        return token_id

    def encode(
        self, prompts: Sequence[str], *, templates: Sequence[str] = (), strict: bool = False
    ) -> NDArray[np.int64]:
        """Token ids of prompts, int64 (n, l), padded with the end token to the context length l.

        Args:
            prompts: n texts.
            templates: what they were made of, with `{}` where a word was put, so that an error can name that word.
            strict: refuse a prompt that is cut to the context length, which is otherwise a warning.

        Raises:
            UsageError: a prompt holds a special token such as `<|endoftext|>`, or a word that a tokenizer of known
                words does not know.
            BundleError: the tokenizer does not end a prompt with the end token.
        """
        encodings = self._tokenizer.encode_batch(list(prompts))
        for prompt, encoding in zip(prompts, encodings, strict=True):
            self._refuse_unknown_words(prompt, templates, encoding)
            self._refuse_special_tokens(prompt, encoding)
            if encoding.overflowing:
                message = f"prompt {_short(prompt)} is longer than {self._context_length} tokens and is cut; shorten it"
                warn_or_refuse(message, strict=strict)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        ids = ids.reshape(len(prompts), self._context_length)
        if len(ids) and not (ids == self._end_id).any(axis=1).all():
            raise BundleError("the bundle's tokenizer does not end a prompt with its end token; rebuild the bundle")
        return ids

    def _refuse_special_tokens(self, prompt: str, encoding: Encoding) -> None:
        # The mask marks what the tokenizer itself added; a special token that it does not mark was typed by the user.
        typed = {token for token, added in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not added}
        special = sorted((typed & self._special_ids) - {self._unknown_id})
        if special:
            raise UsageError(
                f"prompt {_short(prompt)} holds the special token {self._tokenizer.id_to_token(special[0])!r}, "
                "expected plain words; remove it"
            )

    def _refuse_unknown_words(self, prompt: str, templates: Sequence[str], encoding: Encoding) -> None:
        if self._unknown_id is None or self._unknown_id not in encoding.ids:
            return
        start, end = encoding.offsets[encoding.ids.index(self._unknown_id)]
        word = prompt[start:end]
        close = get_close_matches(word.lower(), self._tokenizer.get_vocab(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        typed = _typed(prompt, templates)
        place = typed if word in typed else prompt
        raise UsageError(
            f"word {word!r} of {_short(place)} is not known to this bundle's tokenizer; {hint}other words need a "
            f"bundle of real weights (nerve-build --preset edge); known words: {self._known_words()}"
        )

    def _known_words(self) -> str:
        words = sorted(word for word in self._tokenizer.get_vocab() if word[:1].isalnum())
        more = f" and {len(words) - WORDS_SHOWN} more" if len(words) > WORDS_SHOWN else ""
        return ", ".join(words[:WORDS_SHOWN]) + more


def _typed(prompt: str, templates: Sequence[str]) -> str:
    """What was put in place of `{}`, by the template that has most in common with the prompt; the prompt where none fits.

    >>> _typed("a photo of a cat.", ["{}", "a photo of a {}."])
    'cat'
    """
    halves = [template.split("{}", 1) for template in templates if "{}" in template]
    fitting = [
        prompt[len(before) : len(prompt) - len(after)]
        for before, after in halves
        if prompt.startswith(before) and prompt.endswith(after) and len(before) + len(after) <= len(prompt)
    ]
    return min([prompt, *fitting], key=len)


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")
