"""Class names, prompts and vocabulary files: C++ gives Python's words, ids, bits and errors."""

import hashlib
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nerve_ref.weights.random import synthetic_tokenizer
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.vocabulary.tokenizer import PromptTokenizer
from tests.data.fake_bundle import make_fake_bundle
from tests.native.building import NATIVE, ROOT, json_headers
from tests.native.hostile_texts import TEXTS, clip_tokenizer, mutated, random_class_lists, random_texts
from tests.native.words_library import Reference, Words, answers_of_program

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(json_headers() is None, reason="not installed: nlohmann-json"),
]
TINY_TOKENIZER = ROOT / "nerve_ref/models/tiny/clip/tokenizer.json"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(make_fake_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> "dict[str, Tokenizers]":
    folder = tmp_path_factory.mktemp("tokenizers")
    synthetic_tokenizer(300, 77).save(str(folder / "bytes.json"))
    made = {
        "words": Tokenizers(manifest, TINY_TOKENIZER, 40, "<end>", "<unk>"),
        "bytes": Tokenizers(manifest, folder / "bytes.json", 77, "<|endoftext|>"),
        "clip": Tokenizers(manifest, clip_tokenizer(folder / "clip.json"), 77, "<|endoftext|>"),
        "short": Tokenizers(manifest, clip_tokenizer(folder / "short.json", roberta=False), 12, "<|endoftext|>"),
        "markers": Tokenizers(manifest, clip_tokenizer(folder / "markers.json", markers=True), 77, "<|endoftext|>"),
    }
    return made


class Tokenizers:
    """One tokenizer.json, read by both."""

    def __init__(self, manifest: Manifest, path: Path, length: int, end: str, unknown: str | None = None) -> None:
        self.given: dict[str, Any] = {
            "path": str(path),
            "context_length": length,
            "end_token": end,
            "unknown_token": unknown,
        }
        record = {"context_length": length, "end_token": end, "unknown_token": unknown}
        self.python = PromptTokenizer(path, manifest.vocabulary.model_copy(update=record))


def test_hashes_are_those_of_hashlib(words: Words) -> None:
    contents = [bytes(range(256)) * 2 for _ in range(140)]
    contents = [content[:length] for length, content in enumerate(contents)]
    expected = [[hashlib.sha256(content).hexdigest()] * 2 for content in contents]
    assert words.ask("hashes", contents=[content.hex() for content in contents]) == expected


@pytest.mark.parametrize(
    "content",
    ["c3", "c328", "a0", "e282", "eda080", "edbfbf", "c080", "e0809f", "f4908080", "f888808080", "fe", "ff41"],
)
def test_bytes_that_are_no_utf8_are_refused(words: Words, content: str) -> None:
    assert words.ask("is_utf8", texts=[content]) == [False]
    with pytest.raises(UnicodeDecodeError):
        bytes.fromhex(content).decode()


def test_a_class_list_that_is_no_utf8_is_refused(words: Words) -> None:
    assert words.ask("class_list_of_bytes", classes="646f673bff") == {
        "code": 2,
        "error": "the class list is no UTF-8, expected plain text; save or type it as UTF-8",
    }


def test_the_tables_are_those_of_the_script(words: Words) -> None:
    if words.ask("unicode_version") != unicodedata.unidata_version:
        pytest.skip(f"the tables are of Unicode {words.ask('unicode_version')}, this Python has another")
    script = f"import runpy; print(runpy.run_path({str(NATIVE / 'tools/unicode_tables.py')!r})['tables'](), end='')"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert made == (NATIVE / "src/unicode_tables.inc").read_text(encoding="utf-8")


def test_every_character_is_of_the_kinds_that_python_says(words: Words) -> None:
    if words.ask("unicode_version") != unicodedata.unidata_version:
        pytest.skip(f"the tables are of Unicode {words.ask('unicode_version')}, this Python has another")
    claims: tuple[Callable[[str], bool], ...] = (str.isspace, str.isalnum, str.isdecimal, str.isprintable)
    found = words.ask("properties", start=0, end=0x110000)
    for place, claim in zip((1, 6, 7, 8), claims, strict=True):
        assert [code for code in range(0x110000) if bool(found[code] >> place & 1) != claim(chr(code))] == []
    categories = [unicodedata.category(chr(code)) for code in range(0x110000)]
    for place, first in ((4, "L"), (5, "N")):
        assert [
            code for code, kind in enumerate(categories) if bool(found[code] >> place & 1) != (kind[0] == first)
        ] == []


@given(st.lists(TEXTS, min_size=1, max_size=20))
@example(
    [
        "\u03a3",
        "A\u03a3",
        "A\u03a3.",
        "A\u03a3B",
        "A.\u03a3",
        "A\u00ad\u03a3",
        "A\u03a3.B",
        "1\u03a3",
        "\u0130\u03a3'",
        "a'\"b",
        "\\\t\x00\U000e0001\u2028",
    ]
)
@example(["e\u0323\u0301\u0316" * 200, "\u1100\u1161\u11a8\u11a8", "\u0344\u0308\u0301", "\ufdfa"])
def test_texts_are_composed_folded_split_and_shown_as_in_python(words: Words, texts: list[str]) -> None:
    for text, found in zip(texts, words.ask("text_functions", texts=texts), strict=True):
        assert found == {
            "nfc": unicodedata.normalize("NFC", text),
            "nfkc": unicodedata.normalize("NFKC", text),
            "lower": text.lower(),
            "casefold": text.casefold(),
            "stripped": text.strip(),
            "repr": repr(text),
            "split": text.split(),
            "repr_of_words": repr(text.split()),
        }


def same_class_lists(words: Words, manifest: Manifest, lists: Sequence[dict[str, Any]]) -> int:
    """Compare class lists; returns how many were accepted."""
    accepted = 0
    for asked, found in zip(lists, words.ask("class_lists", lists=lists), strict=True):
        expected = Reference(manifest).class_list(**asked)
        if "synonyms" in found:
            found["words"] = [word for synonyms in found.pop("synonyms") for word in synonyms]
            accepted += 1
        assert found == expected, asked
    return accepted


@given(TEXTS, st.none() | TEXTS, st.sampled_from([3, 254]), st.booleans())
@example("a" * 1001 + "; b", None, 254, True)
@example("a" * 100_000 + "; b", None, 254, False)
@example(";".join(["a"] * 70_000), None, 254, False)
@example(" ; ", None, 254, False)
@example("dog", None, 254, False)
@example("fir; \ufb01r", None, 254, False)
@example("fir; \uff46\uff49\uff52", None, 254, False)
@example("stra\u00dfe, a; STRASSE", None, 254, False)
@example("a; Background", "other", 254, False)
@example("dog, cat; ", "", 254, False)
@example("a, it's; A", 'say "no"', 254, False)
def test_class_lists_are_accepted_and_refused_as_in_python(
    words: Words, manifest: Manifest, classes: str, background: str | None, most: int, strict: bool
) -> None:
    same_class_lists(words, manifest, [{"classes": classes, "background": background, "most": most, "strict": strict}])


def test_class_lists_that_are_mostly_fine_are_read_as_in_python(words: Words, manifest: Manifest) -> None:
    texts = random_class_lists(400, seed=1)
    backgrounds = [None, *texts[:3]] * 100
    lists = [
        {"classes": text, "background": background, "most": 254, "strict": bool(number % 2)}
        for number, (text, background) in enumerate(zip(texts, backgrounds, strict=True))
    ]
    assert same_class_lists(words, manifest, lists) > 100


# Of known words, as those of a bundle are: several fit some of the prompts below, and none fits others.
TEMPLATES = ("{} road", "a photo of a {}.", "a {}", "photo")


def same_tokens(words: Words, tokenizers: Tokenizers, texts: Sequence[str], *, strict: bool = False) -> int:
    """Compare token ids of prompts; returns how many were accepted."""
    given = {"templates": TEMPLATES, "strict": strict}
    found = words.ask("tokens", **tokenizers.given, prompts=[[text] for text in texts], **given)
    expected = [Reference.tokens(tokenizers.python, [text], templates=TEMPLATES, strict=strict) for text in texts]
    assert found == expected
    return sum("ids" in answer for answer in expected)


@pytest.mark.parametrize("kind", ["bytes", "clip", "short", "markers"])
def test_prompts_have_the_token_ids_of_the_tokenizers_library(
    words: Words, tokenizers: dict[str, Tokenizers], kind: str
) -> None:
    texts = random_texts(300, seed=2)
    assert same_tokens(words, tokenizers[kind], texts) > 200
    same_tokens(words, tokenizers[kind], texts, strict=True)


@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
def test_any_prompt_has_the_token_ids_of_the_tokenizers_library(
    words: Words, tokenizers: dict[str, Tokenizers], texts: list[str]
) -> None:
    same_tokens(words, tokenizers["clip"], texts)


def test_prompts_of_known_words_have_ids_and_others_the_same_hint(
    words: Words, tokenizers: dict[str, Tokenizers]
) -> None:
    known = ["", "a photo of a zebra.", "A PHOTO, road;", "\u0130", "sky sky " * 30, "zebra " * 50 + "unknown", "<end>"]
    close = [
        "zebr",
        "umbrela",
        "sunflowers",
        "ROADS",
        "x",
        "watermelonwater",
        "\u03a3\u03a3",
        "a" * 300,
        "teh",
        "pizzza's",
        "a photo of a pink quokka.",
        f"a photo of a {'pink ' * 30}quokka.",
        "a photo of a quokka.",
        "a photo of a .",
    ]
    composed = [unicodedata.normalize("NFC", text) for text in random_texts(200, seed=3)]
    assert same_tokens(words, tokenizers["words"], [*known, *close, *composed]) > 5


@given(
    st.text("abc", max_size=12) | st.text("abcd", min_size=195, max_size=230),
    st.lists(st.text("abc", max_size=12), max_size=9),
)
@example("a" * 210 + "b", ["a" * 150 + "b" * 30, "ba" * 100])
@example("abcd", ["abce", "abcf", "bbcd"])
def test_the_hint_is_that_of_difflib(words: Words, word: str, known: list[str]) -> None:
    known += [word[:100], word[50:] * 2, word[::-1]]
    close = get_close_matches(word, known, n=1)
    assert words.ask("close_match", word=word, known=known) == (close[0] if close else None)


def test_a_prompt_of_many_thousand_characters_is_cut(words: Words, tokenizers: dict[str, Tokenizers]) -> None:
    for text in ("road " * 20_000, "a" * 20_000, "\u00e9\U0001f600" * 5_000):
        assert same_tokens(words, tokenizers["clip"], [text]) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model": {"type": "Unigram", "vocab": []}},
            "a tokenizer with model Unigram, which the C library does not know",
        ),
        ({"normalizer": {"type": "NFD"}}, "a tokenizer with normalizer NFD, which the C library does not know"),
        ({"pre_tokenizer": {"type": "Digits"}}, "a tokenizer with pre-tokenizer Digits, which the C library does not"),
        ({"pre_tokenizer": None}, "a tokenizer with no pre-tokenizer, which the C library does not know"),
        (
            {"post_processor": {"type": "Bert"}},
            "a tokenizer with post-processor Bert, which the C library does not know",
        ),
        ({"model": 7}, "is a tokenizer with model without type, which the C library does not know"),
        ({"added_tokens": 7}, "is not a tokenizer.json: field 'added_tokens' is no array; rebuild the bundle"),
    ],
)
def test_a_tokenizer_of_another_kind_is_named_with_what_to_do(
    words: Words, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(TINY_TOKENIZER.read_text()) | change))
    found = words.ask(
        "tokens", path=str(path), context_length=40, end_token="<end>", unknown_token=None, prompts=[], strict=False
    )
    assert found["code"] == 3
    assert expected in found["error"]
    assert "C library" not in expected or found["error"].endswith("; use a vocabulary file written by nerve-vocab")


def test_a_token_that_the_manifest_names_has_to_be_there(words: Words) -> None:
    given_words = {"path": str(TINY_TOKENIZER), "context_length": 40, "prompts": [], "strict": False}
    found = words.ask("tokens", **given_words, end_token="<it's>", unknown_token=None)
    message = f'{TINY_TOKENIZER} has no token "<it\'s>", which the manifest names; rebuild the bundle'
    assert found == {"code": 3, "error": message}


@pytest.mark.slow
def test_hostile_words_break_nothing_under_sanitizers(
    sanitized_program: Path, tmp_path: Path, tokenizers: dict[str, Tokenizers]
) -> None:
    texts = [*random_texts(300, seed=4), "a" * 10_000, "e\u0301\u0323" * 3_000]
    lists = [{"classes": text, "background": None, "most": 254, "strict": False} for text in texts]
    assert len(answers_of_program(sanitized_program, "class_lists", lists=lists)) == len(texts)
    for kind in tokenizers.values():
        found = answers_of_program(
            sanitized_program,
            "tokens",
            **kind.given,
            prompts=[[text] for text in texts],
            templates=TEMPLATES,
            strict=False,
        )
        assert len(found) == len(texts)
    damaged = tmp_path / "tokenizer.json"
    for seed in range(100):
        damaged.write_bytes(mutated(Path(tokenizers["clip"].given["path"]).read_bytes(), seed))
        answers_of_program(
            sanitized_program,
            "tokens",
            **tokenizers["clip"].given | {"path": str(damaged)},
            prompts=[["a"]],
            templates=TEMPLATES,
            strict=False,
        )
