"""Class lists, templates and the text bank."""

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import CLIPModel

from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import ClassList, parse_classes, text_bank, text_embeddings


@pytest.mark.parametrize(
    "text",
    [
        "ladybug, beetle; grass",
        "ladybug,beetle\ngrass\n",
        "ladybug,  beetle ;\r\ngrass",
        ["ladybug, beetle", "grass"],
    ],
)
def test_lines_and_semicolons_separate_classes_and_commas_separate_synonyms(text: str | list[str]) -> None:
    expected = ClassList(("ladybug", "grass"), (("ladybug", "beetle"), ("grass",)), ())
    assert parse_classes(text) == expected


def test_background_words_may_be_separated_in_any_way() -> None:
    assert parse_classes("ladybug", "sky, sand; road").background == ("sky", "sand", "road")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("  ", "the class list is empty"),
        ([], "the class list is empty"),
        ("grass; ; road", "class 2 has an empty name"),
        (["grass", "  "], "class 2 has an empty name"),
        ("grass,", "class 1 has an empty name: 'grass,'"),
        ("Grass; road; grass", "named more than once: grass"),
        ([f"word {number}" for number in range(255)], "255 classes given, at most 254 fit"),
    ],
)
def test_an_unusable_class_list_is_refused_saying_why(classes: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_classes(classes)


def test_a_background_word_that_is_also_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="named more than once: sky"):
        parse_classes("ladybug; sky", "sky")


@pytest.mark.parametrize(("name", "count"), [("single", 1), ("vild14", 14), ("openai80", 80)])
def test_a_template_set_has_as_many_different_templates_as_its_name_says(name: str, count: int) -> None:
    templates = TEMPLATE_SETS[name]
    assert len(set(templates)) == len(templates) == count
    assert all(template.count("{}") == 1 for template in templates)


def test_an_embedding_is_the_normalised_mean_of_normalised_templates(clip: CLIPModel, tokenizer: Tokenizer) -> None:
    templates = ("a photo of a {}.", "{} road")
    embeddings = text_embeddings(clip, tokenizer, ["ladybug", "grass"], templates)
    ids = torch.tensor([tokenizer.encode(text).ids for text in ("a photo of a grass.", "grass road")])
    with torch.no_grad():
        each = clip.get_text_features(ids)
    each = each if isinstance(each, torch.Tensor) else each.pooler_output
    mean = functional.normalize(each, dim=-1).mean(0)
    torch.testing.assert_close(embeddings[1], mean / mean.norm(), atol=1e-6, rtol=1e-5)


def test_rows_of_a_class_are_its_synonyms_padded_by_repeating(clip: CLIPModel, tokenizer: Tokenizer) -> None:
    bank = text_bank(clip, tokenizer, parse_classes("ladybug, beetle; grass", "sky, sand, road"), ("{}",), slots=4)
    assert bank.class_rows.tolist() == [[0, 1, 2], [3, 4, 4], [5, 5, 5], [0, 1, 2]]
    assert bank.class_mask.tolist() == [True, True, True, False]
    assert bank.class_names == ("background", "ladybug", "grass")
    assert bank.has_background
    assert bank.embeddings.shape == (6, 8)


def test_too_few_slots_are_refused(clip: CLIPModel, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="2 classes do not fit into 1 slots"):
        text_bank(clip, tokenizer, parse_classes("ladybug; grass"), ("{}",), slots=1)
