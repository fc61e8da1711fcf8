"""Text banks and vocabulary files: C++ gives Python's bits and errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from nerve_runtime.vocabulary import ClassList, TextBank, vocabulary_bytes
from nerve_runtime.vocabulary.text_bank import build_text_bank
from nerve_runtime.vocabulary.vocabulary_file import VOCABULARY_SHA256
from tests.native.building import json_headers
from tests.native.hostile_texts import mutated
from tests.native.words_library import Reference, Words, answers_of_program, bank_answer, outcome

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(json_headers() is None, reason="not installed: nlohmann-json"),
]
SHA = "a" * 64
EMBEDDINGS = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
ROWS = np.array([[0, 1], [2, 2]], dtype=np.int64)
BANK = TextBank(EMBEDDINGS, ROWS, np.ones(2, dtype=np.bool_), ("zebra", "caf\u00e9"), has_background=False)
METADATA = {
    "format": "nerve-vocabulary",
    "version": "1",
    "class_names": '["zebra", "road"]',
    "has_background": "false",
    "text_sha256": SHA,
    "sha256": "0" * 64,
}
MUTATIONS = 2000


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 7, 8, 9, 100, 128, 129, 300, 512, 768]),
    st.sampled_from([1, 3, 80]), st.lists(st.integers(1, 4), min_size=1, max_size=9), st.sampled_from([1e-25, 1, 1e19, 5e37]),
)  # fmt: skip
@settings(max_examples=60)
def test_rows_of_a_text_bank_are_those_of_numpy_to_the_last_bit(
    words: Words, seed: int, width: int, templates: int, synonyms: list[int], scale: float
) -> None:
    names = [[f"word {number} {place}" for place in range(count)] for number, count in enumerate(synonyms)]
    texts = [f"{number} {{}}!" for number in range(templates)]
    rows = np.random.default_rng(seed).standard_normal((sum(synonyms) * templates, width)) * scale
    embeddings = rows.astype(np.float32)
    runs: list[list[str]] = []

    def encode(prompts: Sequence[str]) -> Any:
        start = sum(map(len, runs))
        runs.append(list(prompts))
        return embeddings[start : start + len(prompts)]

    found = words.ask(
        "text_bank",
        embeddings=embeddings.tobytes().hex(),
        width=width,
        synonyms=names,
        has_background=False,
        templates=texts,
    )

    def expected() -> dict[str, Any]:
        with np.errstate(all="ignore"):
            bank = build_text_bank(ClassList(tuple(map(tuple, names))), texts, encode, SHA, None)
        held = bank_answer(bank.text_embeddings, bank.class_rows, list(bank.class_names), bank.has_background)
        return held | {"runs": runs}

    assert found | {"warnings": []} == outcome(expected)


def fitted(metadata: dict[str, str] | None = None, **tensors: Any) -> bytes:
    """A vocabulary file whose hash fits."""
    held = {"text_embeddings": EMBEDDINGS, "class_rows": ROWS, **tensors}
    return VOCABULARY_SHA256.filled_in(save(held, METADATA | (metadata or {})))


PADDED = next(content for length in range(8) if b"]}} " in (content := fitted({"more": "x" * length})))
BAD_FILES = {
    "empty": b"",
    "short": b"text",
    "zip": b"PK\x03\x04broken",
    "huge header": b"\xff" * 8 + b"{}",
    "no header": b"\x00" * 8 + b"{}",
    "cut": vocabulary_bytes(BANK, SHA)[:-1],
    "changed": vocabulary_bytes(BANK, SHA)[:-1] + b"\x01",
    "longer": VOCABULARY_SHA256.filled_in(vocabulary_bytes(BANK, SHA) + b"\0"),
    "other safetensors": save({"weight": EMBEDDINGS}),
    "two hashes": fitted({"more": "x"}).replace(b'"more":"x"', b'"sha256":"' + b"0" * 64 + b'"'),
    "a key twice": VOCABULARY_SHA256.filled_in(fitted({"versiom": "1"}).replace(b'"versiom"', b'"version"')),
    "a zero byte after the header": VOCABULARY_SHA256.filled_in(PADDED.replace(b"]}} ", b"]}}\0", 1)),
    "other format": fitted({"format": "it's"}),
    "other version": fitted({"version": "2\n"}),
    "names no JSON": fitted({"class_names": "zebra"}),
    "names no list": fitted({"class_names": '{"zebra": 1}'}),
    "names with a number": fitted({"class_names": '["zebra", 7]'}),
    "names with half a pair": fitted({"class_names": '["zebra", "\\udcff"]'}),
    "names that nest": fitted({"class_names": "[" * 100_000}),
    "one name": fitted({"class_names": '["zebra"]'}),
    "a name with a control character": fitted({"class_names": '["zebra", "r\\u0007\\"d"]'}),
    "background": fitted({"has_background": "no"}),
    "other text graph": fitted({"text_sha256": "\u00e9" * 64}),
    "one tensor more": fitted(more=ROWS),
    "halves": fitted(text_embeddings=EMBEDDINGS.astype(np.float16)),
    "one axis": fitted(text_embeddings=EMBEDDINGS[0]),
    "no axis": fitted(class_rows=np.array(3)),
    "no rows": fitted(text_embeddings=EMBEDDINGS[:0]),
    "not finite": fitted(text_embeddings=np.full((3, 2), np.inf, dtype=np.float32)),
    "a row too far": fitted(class_rows=ROWS + 1),
    "a row before": fitted(class_rows=ROWS - 1),
    "no words": fitted(class_rows=ROWS[:, :0]),
    "a class less": fitted(class_rows=ROWS[:1]),
    "other width": fitted(text_embeddings=np.ones((3, 3), dtype=np.float32)),
    "whole": vocabulary_bytes(BANK, SHA),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_vocabulary_files_are_read_and_refused_as_in_python(words: Words, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "names.safetensors"
    path.write_bytes(BAD_FILES[kind])
    (found,) = words.ask("vocabulary_files", paths=[str(path)], text_sha256=SHA, text_width=2)
    assert found == Reference.vocabulary_file(path, SHA, 2)
    assert ("error" in found) == (kind != "whole")


def test_a_vocabulary_that_is_no_file_or_too_large_is_refused_as_in_python(words: Words, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(200_000_001)
    paths = [tmp_path / "none", tmp_path, large, large / "below"]
    found = words.ask("vocabulary_files", paths=[str(path) for path in paths], text_sha256=SHA, text_width=2)
    assert found == [Reference.vocabulary_file(path, SHA, 2) for path in paths]
    assert all("is no file of at most 200000000 bytes; see nerve-vocab" in answer["error"] for answer in found)


@pytest.mark.slow
def test_2000_mutated_vocabulary_files_end_as_in_python_under_sanitizers(
    sanitized_program: Path, tmp_path: Path
) -> None:
    content, paths = fitted(), []
    for seed in range(MUTATIONS):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(mutated(content, seed))
        paths.append(path)
    found = answers_of_program(
        sanitized_program, "vocabulary_files", paths=[str(path) for path in paths], text_sha256=SHA, text_width=2
    )
    expected = [Reference.vocabulary_file(path, SHA, 2) for path in paths]
    different = {path.name: pair for path, *pair in zip(paths, found, expected, strict=True) if pair[0] != pair[1]}
    assert different == {}
