"""Texts, class lists, tokenizers and vocabulary files that try what code for words gets wrong."""

import json
import random
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from nerve_runtime.vocabulary.vocabulary_file import VOCABULARY_SHA256

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_MARKERS = r"<\|startoftext\|>|<\|endoftext\|>|"
# Blocks that Unicode 9 had, so that every library of a bundle's life knows them.
BLOCKS = (
    range(0x20, 0x7F), range(0xA0, 0x250), range(0x300, 0x370), range(0x386, 0x400), range(0x400, 0x482),
    range(0x5D0, 0x5EB), range(0x660, 0x66A), range(0x905, 0x93A), range(0x1100, 0x1200), range(0x1E00, 0x1F00),
    range(0x1F80, 0x1FB5), range(0x2000, 0x200B), range(0x2070, 0x2072), range(0x2100, 0x2189), range(0x24B6, 0x24EA),
    range(0x3041, 0x3097), range(0x4E00, 0x4F00), range(0xAC00, 0xAD00), range(0xF900, 0xFA00), range(0xFB00, 0xFB07),
    range(0xFF01, 0xFF5F), range(0x1D400, 0x1D455), range(0x1F300, 0x1F400), range(0x1F600, 0x1F640),
)  # fmt: skip
SPACES = "\t\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u2003\u2028\u3000"
MADE = (
    "a", "photo", "of", "road", "Road", "ROAD", "zebra", ",", ";", ", ", "; ", "'s", "don't", "'ll", "''", "dog", "soccer ball",
    "\u0130", "I\u0307", "\u03a3", "\u03a3\u03c2", "stra\u00dfe", "STRASSE", "\ufb01r", "fir", "\uff46\uff49\uff52", "caf\u00e9",
    "cafe\u0301", "e\u0301\u0323", "e\u0323\u0301", "\uac01", "\u1100\u1161\u11a8", "\U0001f469\u200d\U0001f680", "\u200d",
    "\u0440\u043e\u0430d", "\u0391lpha", "p\u0430per", "x\u00b2", "\u2167", "\u0663", START, END, "<|ENDOFTEXT|>", "<end>",
    "<start_of_text>", "<|endoftext|", "<unk>", "\x00", "\x07", "\x7f", "\x1b[31m", "\n", "\u200b", "\ufeff", "\ue000",
    "background", "_", "__init__", "{}", "\\", '"', "1,000", "3.5", "\u00bd", "a" * 70, "banandana", "abracadabracadab", "mississippissing", "anananas", "." * 90, "!<|endoftext|>!!",
)  # fmt: skip


SENTENCES = (
    "a photo of the roads of rome", "zebras, dogs and caf\u00e9s", "der Stra\u00dfe", "banana bandana banal canal", "ananas",
    "photograph of a soccer ball on the road", "abracadabra cadabra abrac", "mississippi missing issues", "a bad photo of the dog",
) * 4  # fmt: skip


def parts() -> st.SearchStrategy[str]:
    """A word, a separator, or a few letters of one block or of many."""
    letters = [chr(code) for block in BLOCKS for code in block]
    few = st.text(st.sampled_from([*letters, *SPACES]), max_size=5)
    return st.one_of(st.sampled_from(MADE), few, st.sampled_from([", ", "; ", " ", ",", ";", *SPACES]))


TEXTS = st.lists(parts(), max_size=9).map("".join)


def random_texts(count: int, seed: int) -> list[str]:
    """As many texts, in the mixture of `TEXTS`, faster."""
    draw = random.Random(seed)
    letters = [chr(code) for block in BLOCKS for code in block]
    separators = [", ", "; ", " ", ",", ";", *SPACES]

    def part() -> str:
        kind = draw.randrange(3)
        if kind == 0:
            return draw.choice(MADE)
        return draw.choice(separators) if kind == 1 else "".join(draw.choices(letters, k=draw.randrange(6)))

    return ["".join(part() for _ in range(draw.randrange(10))) for _ in range(count)]


def random_class_lists(count: int, seed: int) -> list[str]:
    """Class lists of which most are fine: words without control characters, each once or rarely twice."""
    draw = random.Random(seed)
    plain = [text for text in MADE if text.isprintable() and not set(text) & set(",;")]
    letters = [chr(code) for block in BLOCKS for code in block if chr(code) not in ",;"]

    def word() -> str:
        space = draw.choice(["", "", " ", "\t", "\u3000"])
        return f"{space}{draw.choice(plain)} {''.join(draw.choices(letters, k=draw.randrange(4)))}{space}"

    def words(most: int) -> list[str]:
        return [word() for _ in range(draw.randrange(1, most))]

    return ["; ".join(", ".join(words(4)) for _ in range(draw.randrange(1, 6))) for _ in range(count)]


def clip_tokenizer(path: Path, *, markers: bool = False, roberta: bool = True) -> Path:
    """A small tokenizer of the form of OpenAI's: all bytes alone and at a word's end, merges trained on a few sentences."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    trained.pre_tokenizer = _clip_pre_tokenizer(markers)
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([*MADE * 3, *SENTENCES], trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.add_special_tokens(
        [AddedToken(START, special=True, normalized=True), AddedToken(END, special=True, normalized=False)]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = _clip_pre_tokenizer(markers)
    tokenizer.decoder = decoders.ByteLevel()
    start, end = vocabulary[START], vocabulary[END]
    template = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)])
    tokenizer.post_processor = (
        processors.RobertaProcessing((END, end), (START, start), False, False) if roberta else template
    )
    tokenizer.save(str(path))
    return path


def _clip_pre_tokenizer(markers: bool) -> Any:
    pattern = (CLIP_MARKERS if markers else "") + CLIP_PATTERN
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def mutated(content: bytes, seed: int) -> bytes:
    """A vocabulary file with one to four changes; every second one has its hash made to fit."""
    draw, changed = random.Random(seed), bytearray(content)
    header_end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(min(header_end, len(changed)) if draw.random() < 0.8 else len(changed))
        kind = draw.randrange(5)
        if kind == 0:
            changed[place] = draw.randrange(256)
        elif kind == 1:
            changed[place] = draw.choice(b'0123456789[]{}",:.-e\\nt ')
        elif kind == 2:
            del changed[place : place + draw.randrange(1, 9)]
            changed[:8] = (int.from_bytes(changed[:8], "little") - draw.randrange(2)).to_bytes(
                9, "little", signed=True
            )[:8]
        elif kind == 3:
            changed[place:place] = changed[place : place + draw.randrange(1, 30)]
        else:
            _replace_word(changed, draw)
        changed = changed or bytearray(b"x" * 9)
    if draw.random() < 0.5:
        changed[:8] = max(0, len(changed) - (len(content) - header_end) - 8).to_bytes(8, "little")
    return VOCABULARY_SHA256.filled_in(bytes(changed)) if seed % 2 else bytes(changed)


def _replace_word(changed: bytearray, draw: random.Random) -> None:
    words = (b"F32", b"F16", b"I64", b"BOOL", b"F8_E4M3", b"true", b"false", b"null", b"[3,2]", b"[6]", b"[2,2]", b"[0,32]",
             b"[32,56]", b"nerve-vocabulary", b"class_rows", b"text_embeddings", b"__metadata__", b"\\\\ud800", b"1e3",
             b"18446744073709551616", b"[0,0]", b"{}", b'"version":"1"', b"\\u0000")  # fmt: skip
    known = [word for word in words if bytes(changed).find(word) >= 0]
    if known:
        word = draw.choice(known)
        at = bytes(changed).find(word)
        changed[at : at + len(word)] = draw.choice(words)
