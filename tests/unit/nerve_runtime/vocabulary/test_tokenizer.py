import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.vocabulary.tokenizer import PromptTokenizer
from tests.data.fake_bundle import CONTEXT_LENGTH, WORDS


@pytest.fixture
def tokenizer(bundle: Path, manifest: Manifest) -> PromptTokenizer:
    return PromptTokenizer(bundle / "tokenizer.json", manifest.vocabulary)


@pytest.fixture
def open_tokenizer(bundle: Path, manifest: Manifest) -> PromptTokenizer:
    """One that does not say that it knows its words only, as CLIP's."""
    open_words = manifest.vocabulary.model_copy(update={"unknown_token": None})
    return PromptTokenizer(bundle / "tokenizer.json", open_words)


def test_prompts_become_rows_padded_with_the_end_token(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode(["red", "a photo of a zebra"])
    red, a, photo, of, zebra = (3 + WORDS.index(word) for word in ("red", "a", "photo", "of", "zebra"))
    assert ids.dtype.name == "int64"
    assert ids.tolist() == [
        [0, red] + [1] * (CONTEXT_LENGTH - 2),
        [0, a, photo, of, a, zebra] + [1] * (CONTEXT_LENGTH - 6),
    ]


def test_no_prompts_give_no_rows(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode([]).shape == (0, CONTEXT_LENGTH)


@pytest.mark.parametrize("prompt", ["red <end> ball", "<start>", "<end>"])
def test_a_special_token_in_a_prompt_is_refused(
    tokenizer: PromptTokenizer, open_tokenizer: PromptTokenizer, prompt: str
) -> None:
    for refusing in (tokenizer, open_tokenizer):
        with pytest.raises(UsageError, match=r"holds the special token '<(start|end)>', expected plain words"):
            refusing.encode(["grass", prompt])


def test_a_misspelt_word_is_answered_with_the_nearest_known_one(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(
        UsageError, match=r"word 'bleu' .* did you mean 'blue'\? other words need .*edge\); known words"
    ):
        tokenizer.encode(["a bleu ball"])


def test_an_unknown_word_is_named_with_the_words_that_are_known(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(UsageError, match=r"word 'unicorn' of 'a unicorn' is not known .* known words: a, ball, blue"):
        tokenizer.encode(["red", "a unicorn"])


def test_an_unknown_word_is_named_with_the_class_that_was_typed(tokenizer: PromptTokenizer) -> None:
    templates = ["{}", "a {} ball", "a photo of {}"]
    with pytest.raises(UsageError, match=r"word 'unicorn' of 'blue unicorn' is not known"):
        tokenizer.encode(["a blue unicorn ball"], templates=templates)
    with pytest.raises(UsageError, match=r"word 'foto' of 'a foto of red' is not known"):
        tokenizer.encode(["a foto of red"], templates=["a foto of {}"])
    with pytest.raises(UsageError, match=r"word 'unicorn' of 'unicorn (red ){12}r\.\.\.' is not known"):
        tokenizer.encode(["unicorn " + "red " * 30], templates=templates)


def test_a_long_prompt_is_cut_with_a_warning(tokenizer: PromptTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    prompt = "red " * 30
    with caplog.at_level(logging.WARNING):
        ids = tokenizer.encode([prompt])
    assert ids.shape == (1, CONTEXT_LENGTH)
    assert ids[0, -1] == 1
    assert f"is longer than {CONTEXT_LENGTH} tokens and is cut" in caplog.text
    with pytest.raises(UsageError, match="is longer than 12 tokens"):
        tokenizer.encode([prompt], strict=True)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"is not a tokenizer\.json"):
        PromptTokenizer(path, manifest.vocabulary)


def test_a_tokenizer_without_the_named_end_token_is_refused(bundle: Path, manifest: Manifest) -> None:
    odd = manifest.vocabulary.model_copy(update={"end_token": "<stop>"})
    with pytest.raises(BundleError, match="has no token '<stop>', which the manifest names"):
        PromptTokenizer(bundle / "tokenizer.json", odd)


def test_a_tokenizer_that_never_ends_a_prompt_is_refused(bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    library = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    short = manifest.vocabulary.model_copy(update={"context_length": 1, "unknown_token": None})
    plain = tmp_path / "tokenizer.json"
    library.post_processor = None
    library.save(str(plain))
    with pytest.raises(BundleError, match="does not end a prompt with its end token"):
        PromptTokenizer(plain, short).encode(["red"])
