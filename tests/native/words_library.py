"""The C++ code between class names and token ids, built for tests and asked in JSON; and the same answers of Python."""

import ctypes
import hashlib
import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from nerve_runtime.backends.base import Backend
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import NerveError
from nerve_runtime.vocabulary import TextEncoder
from nerve_runtime.vocabulary.tokenizer import PromptTokenizer
from nerve_runtime.vocabulary.vocabulary_file import load_vocabulary
from tests.native.building import NATIVE, STRICT, json_headers, run

SOURCES = (
    "class_list", "close_matches", "error", "files", "sha256", "json", "tokenizer", "tokenizer_json", "tokenizer_pieces", "unicode",
    "vocabulary", "vocabulary_file",
)  # fmt: skip


class Words:
    """Answers questions; each is a function of `internals_words.cc`."""

    def __init__(self, library: Path) -> None:
        self._answer = ctypes.CDLL(str(library)).words_answer
        self._answer.restype = ctypes.c_char_p

    def ask(self, question: str, **given: Any) -> Any:
        """The answer to a question, or what went wrong, under `internal`."""
        return json.loads(self._answer(question.encode(), json.dumps(given).encode()))


def compiled_words(output: Path, *flags: str) -> Path:
    """Compile the sources with all warnings."""
    sources = [*(NATIVE / f"src/{name}.cc" for name in SOURCES), Path(__file__).with_name("internals_words.cc")]
    run(
        "g++", "-std=c++17", "-O1", *STRICT, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *flags,
        f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}", "-isystem", str(json_headers()), *sources, "-o", output,
    )  # fmt: skip
    return output


def answers_of_program(program: Path, question: str, **given: Any) -> Any:
    """The same as `Words.ask` in a process of its own, which a sanitizer may end."""
    ended = subprocess.run(
        [str(program), question], input=json.dumps(given).encode(), capture_output=True, check=False, timeout=600
    )
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-4000:]
    return json.loads(ended.stdout)


@contextmanager
def _warnings() -> Any:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("nerve_runtime")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def outcome(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call gives or why it fails, and what it warned of, in the form of `internals_words.cc`."""
    with _warnings() as heard:
        try:
            return answer() | {"warnings": heard}
        except NerveError as error:
            return {"code": error.exit_code, "error": str(error), "warnings": heard}


class Reference:
    """The answers of Python."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def class_list(self, classes: str, background: str | None, most: int, strict: bool) -> dict[str, Any]:
        """The words that would be embedded, one after another, and the names."""
        geometry = self._manifest.geometry.model_copy(update={"max_classes": most})
        manifest = self._manifest.model_copy(update={"geometry": geometry})
        encoder = TextEncoder(Path(), manifest, cast(Backend, None), templates=["{}"], strict=strict)
        words: list[str] = []

        def encode(prompts: Sequence[str]) -> Any:
            words.extend(prompts)
            return np.ones((len(prompts), 1), dtype=np.float32)

        encoder._encode = encode  # type: ignore[method-assign]

        def answer() -> dict[str, Any]:
            bank = encoder.text_bank(classes, [] if background is None else [background])
            return {"words": words, "names": list(bank.class_names)}

        return outcome(answer)

    @staticmethod
    def tokens(
        tokenizer: PromptTokenizer, prompts: list[str], *, templates: Sequence[str], strict: bool
    ) -> dict[str, Any]:
        """Token ids, one prompt after another."""
        return outcome(lambda: {"ids": tokenizer.encode(prompts, templates=templates, strict=strict).ravel().tolist()})

    @staticmethod
    def vocabulary_file(path: Path, text_sha: str, text_width: int) -> dict[str, Any]:
        """What a vocabulary file holds."""

        def answer() -> dict[str, Any]:
            bank = load_vocabulary(path, text_sha, text_width)
            return bank_answer(bank.text_embeddings, bank.class_rows, list(bank.class_names), bank.has_background)

        found = outcome(answer)
        del found["warnings"]
        return found


def bank_answer(embeddings: Any, rows: Any, names: list[str], has_background: bool) -> dict[str, Any]:
    """A text bank in the form of `internals_words.cc`."""
    return {
        "embeddings": hashlib.sha256(embeddings.tobytes()).hexdigest(),
        "rows": list(embeddings.shape),
        "class_rows": rows.ravel().tolist(),
        "classes": list(rows.shape),
        "names": names,
        "has_background": has_background,
    }
