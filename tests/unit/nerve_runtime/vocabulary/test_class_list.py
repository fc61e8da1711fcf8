import logging
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.errors import UsageError
from nerve_runtime.vocabulary import class_list
from nerve_runtime.vocabulary.class_list import ClassList, split_classes


def test_semicolons_separate_classes_and_commas_synonyms() -> None:
    listed = ClassList.of(split_classes("ladybug; tennis  ball, ball; road;"))
    assert listed.synonyms == (("ladybug",), ("tennis ball", "ball"), ("road",))
    assert listed.names == ("ladybug", "tennis ball", "road")


def test_background_words_are_one_class_and_come_first() -> None:
    listed = ClassList.of(["zebra"], ["sky, sand", "snow"])
    assert listed.synonyms[0] == ("sky", "sand", "snow")
    assert listed.names == ("background", "zebra")
    assert listed.has_background


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the class list is empty; name at least two"):
        split_classes(text)


def test_a_list_of_no_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="the class list is empty"):
        ClassList.of([])


@pytest.mark.parametrize("word", ["", "  ", "ball,", " , "])
def test_an_empty_word_is_refused_with_its_place(word: str) -> None:
    with pytest.raises(UsageError, match="class 2 has an empty word"):
        ClassList.of(["zebra", word])


def test_a_single_class_has_no_rival() -> None:
    with pytest.raises(UsageError, match=r"the only class 'zebra' has no rival.*; add classes, or background words$"):
        ClassList.of(["zebra"]).refuse_without_rival()
    with pytest.raises(UsageError, match=r"synonyms by ',': 'zebra; road; sky'\)"):
        ClassList.of(["zebra, road, sky"]).refuse_without_rival()
    with_background = ClassList.of(["zebra"], ["grass"])
    with_background.refuse_without_rival()
    assert with_background.names == ("background", "zebra")


def test_a_hundred_thousand_classes_are_refused_before_any_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_list, "_checked_word", lambda *_, **__: pytest.fail("a word was looked at"))
    names = [f"class {number}" for number in range(100_000)]
    started_s = time.process_time()
    with pytest.raises(UsageError, match="100000 classes are active, background included, expected at most 65534"):
        ClassList.of(names)
    assert time.process_time() - started_s < 0.5


def test_background_words_may_be_separated_as_classes_are() -> None:
    assert ClassList.of(["a", "b"], ["water; sky, road"]) == ClassList.of(["a", "b"], ["water, sky, road"])


def test_65534_classes_are_active_at_most_and_background_counts() -> None:
    names = [f"class{number}" for number in range(65534)]
    assert len(ClassList.of(names).names) == 65534
    with pytest.raises(UsageError, match="65535 classes are active"):
        ClassList.of(names, ["sky"])


@pytest.mark.parametrize(
    "second", ["zebra", "Zebra", "ZEBRA", " zebra ", "\uff5a\uff45\uff42\uff52\uff41", "cow, zebra"]
)  # fullwidth
def test_duplicates_are_refused_with_both_places(second: str) -> None:
    with pytest.raises(UsageError, match=r"class 3 repeats '.*' of class 1"):
        ClassList.of(["zebra", "grass", second])


def test_a_word_twice_in_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="class 1 repeats 'ball' of class 1"):
        ClassList.of(["ball, ball", "grass"])


@pytest.mark.parametrize(
    ("synonyms", "expected"),
    [
        ((("a\udcff",), ("b",)), r"class 1 holds the character U\+DCFF"),
        ((("a",), (3,)), "entry 1 of class 2 of a ClassList is 3 of type int"),
        (("abc", "b"), "class 1 of a ClassList is of type str"),
    ],
)
def test_a_class_list_made_by_hand_holds_plain_words_too(synonyms: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        ClassList(synonyms)


def test_background_is_a_reserved_name_once_there_are_background_words() -> None:
    with pytest.raises(UsageError, match="class 1 repeats 'Background' of background"):
        ClassList.of(["Background"], ["sky"])
    assert ClassList.of(["background", "zebra"]).names == ("background", "zebra")
    assert ClassList.of(["zebra"], ["background"]).names == ("background", "zebra")


def test_letters_that_only_look_alike_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    mixed = "c\u0430t"  # the middle letter is Cyrillic
    with caplog.at_level(logging.WARNING):
        ClassList.of([mixed, "grass"])
    assert "mixes Cyrillic and Latin letters in one word" in caplog.text
    with pytest.raises(UsageError, match=r"class 1 .* mixes Cyrillic and Latin"):
        ClassList.of([mixed, "grass"], strict=True)


def test_words_of_two_scripts_side_by_side_are_fine(caplog: pytest.LogCaptureFixture) -> None:
    ClassList.of(["\u043a\u043e\u0442 cat", "\u0436\u0443\u043a"], strict=True)
    assert not caplog.records


@pytest.mark.parametrize(("character", "code"), [("\0", "U+0000"), ("\x1b", "U+001B"), ("\ud800", "U+D800")])
def test_characters_that_are_no_text_are_refused(character: str, code: str) -> None:
    with pytest.raises(UsageError, match=f"class 2 holds the character {code.replace('+', '[+]')}"):
        ClassList.of(["zebra", f"gr{character}ss"])


def test_a_word_is_cut_at_a_thousand_characters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        listed = ClassList.of(["x" * 100_000, "grass"])
    assert listed.names[0] == "x" * 1000
    assert "class 1 is 100000 characters long and is cut at 1000" in caplog.text
    with pytest.raises(UsageError, match="is cut at 1000"):
        ClassList.of(["x" * 1001, "grass"], strict=True)


def test_names_are_brought_to_one_unicode_form() -> None:
    assert ClassList.of(["cafe\u0301", "grass"]).names[0] == "caf\u00e9"


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_list_is_taken_whole_or_refused(names: list[str]) -> None:
    with suppress(UsageError):
        listed = ClassList.of(names)
        assert len(listed.names) == len(names)
        assert all(word == word.strip() != "" for words in listed.synonyms for word in words)
