import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import NumericError, UsageError
from nerve_runtime.vocabulary.class_list import ClassList
from nerve_runtime.vocabulary.text_bank import (
    TextBank,
    build_text_bank,
    chosen_templates,
    class_rows,
    pad_classes,
    text_sha256,
)

SHA = "a" * 64


class CountingEncoder:
    """Embeds a prompt as (its length, its number of letters a), of length 1; notes the sizes of its runs."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        self.runs.append(len(prompts))
        rows = np.array([[len(prompt), prompt.count("a")] for prompt in prompts], dtype=np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def bank_of(
    names: Sequence[str], cache_dir: Path | None = None, encoder: CountingEncoder | None = None, sha: str = SHA
) -> TextBank:
    return build_text_bank(ClassList.of(names), ["{}", "a {}"], encoder or CountingEncoder(), sha, cache_dir)


def test_a_row_is_the_normalised_mean_over_templates() -> None:
    bank = bank_of(["banana", "road"])
    one, other = np.array([6, 3]) / np.hypot(6, 3), np.array([8, 4]) / np.hypot(8, 4)
    mean = (one + other) / 2
    np.testing.assert_allclose(bank.text_embeddings[0], mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(bank.text_embeddings, axis=1), 1, rtol=1e-6)


def test_synonyms_have_rows_of_their_own_and_short_classes_repeat() -> None:
    bank = bank_of(["ladybug", "tennis ball, ball, sphere", "road, street"])
    assert bank.text_embeddings.shape == (6, 2)
    assert bank.class_rows.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 4]]
    assert bank.class_mask.tolist() == [True] * 3
    assert class_rows([1]).tolist() == [[0]]


def test_prompts_go_through_the_graph_256_at_a_time() -> None:
    encoder = CountingEncoder()
    bank_of([f"name {number}" for number in range(200)], encoder=encoder)
    assert encoder.runs == [256, 144]


def test_the_cache_answers_the_second_time(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    first = bank_of(["zebra", "road"], tmp_path / "cache", encoder)
    second = bank_of(["zebra", "road"], tmp_path / "cache", encoder)
    assert encoder.runs == [4]
    np.testing.assert_array_equal(first.text_embeddings, second.text_embeddings)


def test_another_word_or_another_text_graph_misses_the_cache(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    bank_of(["zebra", "road"], tmp_path, encoder)
    bank_of(["zebra", "roads"], tmp_path, encoder)
    bank_of(["zebra", "road"], tmp_path, encoder, sha="b" * 64)
    assert encoder.runs == [4, 4, 4]


def test_a_damaged_cache_file_is_computed_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = bank_of(["zebra", "road"], tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        again = bank_of(["zebra", "road"], tmp_path)
    assert "is damaged and is computed anew" in caplog.text
    np.testing.assert_array_equal(first.text_embeddings, again.text_embeddings)


def test_a_cache_that_cannot_be_read_is_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bank_of(["zebra", "road"], tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError("no")))
    encoder = CountingEncoder()
    bank_of(["zebra", "road"], tmp_path, encoder)
    assert encoder.runs == [4]
    assert "cannot be read (no)" in caplog.text


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        bank_of(["zebra", "road"], tmp_path / "file" / "cache")
    assert "text embeddings are not kept for the next start: cannot write" in caplog.text


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NumericError, match="not finite; rebuild the bundle in fp32"):
        build_text_bank(
            ClassList.of(["zebra", "road"]),
            ["{}"],
            lambda prompts: np.full((len(prompts), 2), np.nan, dtype=np.float32),
            SHA,
            None,
        )


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        (["a \udcff {}"], r"template 'a \\udcff \{\}' holds the character U\+DCFF, expected plain text"),
        ([3], "entry 1 of the list of templates is 3 of type int, expected an iterable of strings"),
        (7, "the list of templates is of type int, expected an iterable of strings"),
        ({"a {}": 1}, "the list of templates is of type dict, expected an iterable of strings"),
    ],
)
def test_templates_that_are_no_plain_strings_are_refused(manifest: Manifest, templates: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        chosen_templates(manifest, templates)


def test_templates_may_come_from_a_generator(manifest: Manifest) -> None:
    assert chosen_templates(manifest, (f"{article} {{}}" for article in ("a", "the"))) == ("a {}", "the {}")


def test_templates_are_chosen_by_name_or_given(manifest: Manifest) -> None:
    assert chosen_templates(manifest, None) == ("{}",)
    assert chosen_templates(manifest, "pair") == ("a {}", "a photo of a {}")
    assert chosen_templates(manifest, ["the {}"]) == ("the {}",)
    with pytest.raises(UsageError, match=r"template set 'openai80' is not in the bundle, expected one of \['pair'"):
        chosen_templates(manifest, "openai80")
    with pytest.raises(UsageError, match=r"templates \['a photo'\] do not hold \{\} exactly once"):
        chosen_templates(manifest, ["a photo"])
    with pytest.raises(UsageError, match="exactly once"):
        chosen_templates(manifest, [])


def test_padding_masks_the_new_slots_and_moves_no_class() -> None:
    bank = bank_of(["zebra, horse", "road"])
    padded = pad_classes(bank, 4)
    assert padded.class_rows.tolist() == [[0, 1], [2, 2], [0, 1], [0, 1]]
    assert padded.class_mask.tolist() == [True, True, False, False]
    assert padded.class_names == ("zebra", "road")
    with pytest.raises(UsageError, match="2 classes do not fit the 1 slots of this engine"):
        pad_classes(bank, 1)


def test_the_text_hash_changes_with_the_tokenizer(manifest: Manifest) -> None:
    record = manifest.files["tokenizer.json"].model_copy(update={"sha256": "f" * 64})
    changed = manifest.model_copy(update={"files": {**manifest.files, "tokenizer.json": record}})
    assert text_sha256(changed) != text_sha256(manifest)
