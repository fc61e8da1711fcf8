import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from nerve_runtime.errors import UsageError
from nerve_runtime.vocabulary import TextBank, vocabulary_bytes
from nerve_runtime.vocabulary import vocabulary_file as module
from nerve_runtime.vocabulary.vocabulary_file import VOCABULARY_SHA256, load_vocabulary
from nerve_stream.vocabulary_file import save_vocabulary

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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "names.safetensors"


def written(path: Path, metadata: dict[str, str] | None = None, **tensors: Any) -> Path:
    """A file whose hash fits, with other metadata (None: without that entry) or tensors than `METADATA` and `BANK`."""
    held: dict[str, NDArray[Any]] = {"text_embeddings": EMBEDDINGS, "class_rows": ROWS, **tensors}
    path.write_bytes(VOCABULARY_SHA256.filled_in(save(held, METADATA | (metadata or {}))))
    return path


def test_a_vocabulary_file_gives_back_what_was_saved(path: Path) -> None:
    save_vocabulary(path, replace(BANK, class_names=("background", "caf\u00e9"), has_background=True), SHA)
    loaded = load_vocabulary(path, SHA, 2)
    np.testing.assert_array_equal(loaded.text_embeddings, EMBEDDINGS)
    np.testing.assert_array_equal(loaded.class_rows, ROWS)
    assert loaded.class_mask.tolist() == [True, True]
    assert loaded.class_names == ("background", "caf\u00e9")
    assert loaded.has_background


def test_a_vocabulary_file_is_what_the_readme_says(path: Path) -> None:
    save_vocabulary(path, BANK, SHA)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"text_embeddings", "class_rows"}
        metadata = file.metadata()
    own = metadata.pop("sha256")
    assert json.loads(metadata.pop("class_names")) == ["zebra", "caf\u00e9"]
    assert metadata == {
        "format": "nerve-vocabulary",
        "version": "1",
        "has_background": "false",
        "text_sha256": SHA,
    }
    assert own == VOCABULARY_SHA256.of(path.read_bytes())


def test_a_vocabulary_of_another_text_graph_is_refused(path: Path) -> None:
    save_vocabulary(path, BANK, SHA)
    with pytest.raises(UsageError, match=r"was made with text graph aaaaaaaaaaaa\.\.\., this bundle has bbbbbbbbbbbb"):
        load_vocabulary(path, "b" * 64, 2)


def test_a_vocabulary_of_another_width_is_refused(path: Path) -> None:
    save_vocabulary(path, BANK, SHA)
    with pytest.raises(UsageError, match=r"holds embeddings F32 \(3, 2\).*expected finite F32 \(r, 5\)"):
        load_vocabulary(path, SHA, 5)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x04\x03broken", b"\xff" * 8 + b"{}"])
def test_a_file_that_is_no_safetensors_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is no safetensors file, or was cut; write it anew with nerve-vocab"):
        load_vocabulary(path, SHA, 2)


def test_a_vocabulary_of_an_earlier_release_is_refused_with_what_to_do(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, text_embeddings=EMBEDDINGS, class_rows=ROWS)
    with pytest.raises(
        UsageError, match=r"is a file of numpy, as nerve-vocab wrote .*; write it anew with nerve-vocab"
    ):
        load_vocabulary(path, SHA, 2)


def test_safetensors_of_something_else_are_refused(path: Path) -> None:
    path.write_bytes(save({"weight": EMBEDDINGS}))
    with pytest.raises(UsageError, match=r"is no file of nerve-vocab: it holds its own sha256 0 times, expected once"):
        load_vocabulary(path, SHA, 2)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content + b"\0", lambda content: content[:-1] + b"\1"]
)
def test_a_vocabulary_that_was_changed_or_cut_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(vocabulary_bytes(BANK, SHA)))
    with pytest.raises(UsageError, match=r"was changed or cut after it was written: its sha256 is .*; copy it again"):
        load_vocabulary(path, SHA, 2)


def test_a_vocabulary_with_a_fitting_hash_and_a_hole_is_refused(path: Path) -> None:
    path.write_bytes(VOCABULARY_SHA256.filled_in(vocabulary_bytes(BANK, SHA) + b"\0"))
    with pytest.raises(UsageError, match="is no valid safetensors file; write it anew"):
        load_vocabulary(path, SHA, 2)


def test_a_vocabulary_that_names_something_twice_is_refused(path: Path) -> None:
    content = save({"text_embeddings": EMBEDDINGS, "class_rows": ROWS}, METADATA | {"versiom": "1"})
    path.write_bytes(VOCABULARY_SHA256.filled_in(content.replace(b'"versiom"', b'"version"')))
    with pytest.raises(UsageError, match="is no valid safetensors file; write it anew"):
        load_vocabulary(path, SHA, 2)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"format": "maps"}, r"has format 'maps' version '1', expected 'nerve-vocabulary' version '1'"),
        ({"version": "2"}, r"has format 'nerve-vocabulary' version '2', expected"),
        ({"class_names": "zebra"}, "has class_names that are no JSON list of strings"),
        ({"class_names": '"zebra"'}, "has class_names that are no JSON list of strings"),
        ({"class_names": '["zebra", 7]'}, "has class_names that are no JSON list of strings"),
        ({"class_names": '["zebra", "\\udcff"]'}, "has class_names that are no JSON list of strings"),
        ({"class_names": "[" * 100_000}, "has class_names that are no JSON list of strings"),
        ({"class_names": '["zebra"]'}, r"and 1 names, expected finite F32 \(r, 2\)"),
        ({"class_names": '["zebra", "r\\u0000d"]'}, r"class 'r\\x00d' of vocabulary .* holds the character U\+0000"),
        ({"has_background": "no"}, "has has_background 'no', expected 'true' or 'false'"),
        ({"text_sha256": ""}, r"was made with text graph \.\.\., this bundle has aaaaaaaaaaaa"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(path: Path, metadata: dict[str, str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        load_vocabulary(written(path, metadata), SHA, 2)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"more": ROWS}, "does not hold the tensors text_embeddings and class_rows, and only these"),
        ({"text_embeddings": EMBEDDINGS.astype(np.float16)}, r"holds embeddings F16 \(3, 2\), rows I64 \(2, 2\)"),
        ({"text_embeddings": EMBEDDINGS[0]}, r"holds embeddings F32 \(2,\), rows"),
        ({"text_embeddings": EMBEDDINGS * np.float32("nan")}, "expected finite F32"),
        ({"class_rows": ROWS + 1}, r"and I64 \(c, k\) within them"),
        ({"class_rows": ROWS - 1}, r"and I64 \(c, k\) within them"),
        ({"class_rows": ROWS[:, :0]}, r"rows I64 \(2, 0\)"),
        ({"class_rows": ROWS[:1]}, r"rows I64 \(1, 2\) and 2 names"),
        ({"class_rows": ROWS.astype(np.int32)}, r"rows I32 \(2, 2\)"),
    ],
)
def test_tensors_that_make_no_sense_are_refused(path: Path, tensors: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        load_vocabulary(written(path, **tensors), SHA, 2)


def test_a_vocabulary_that_is_not_there_or_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is no file of at most 200000000 bytes; see nerve-vocab"):
        load_vocabulary(path, SHA, 2)
    save_vocabulary(path, BANK, SHA)
    monkeypatch.setattr(module, "VOCABULARY_FILE_LIMIT_BYTES", 20)
    with pytest.raises(UsageError, match="is no file of at most 20 bytes; see nerve-vocab"):
        load_vocabulary(path, SHA, 2)
