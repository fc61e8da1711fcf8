"""A preset file says in which line it is wrong, what it has there and what is expected."""

import sys
from pathlib import Path
from typing import Any

import pytest

from nerve_export.presets.schema import PresetText, preset_toml, read_preset_text, without_nulls
from nerve_runtime.errors import UsageError

if sys.version_info >= (3, 11):
    from tomllib import loads
else:
    from tomli import loads

SOUND = """# a comment
about = "short"

[networks.clip]
name = "tiny"

[networks]
affinity = { name = "tiny" }

[method]
steps = 7
layers = [
    "one",
    "two",
]
"""


def parsed(text: str) -> Any:
    return PresetText(Path("mine.toml"), text).parsed()


def test_what_a_sound_file_says_is_read() -> None:
    content = parsed(SOUND)
    assert (content.about, content.networks.affinity.name, content.networks.vae) == ("short", "tiny", None)
    assert (content.method.steps, content.method.layers, content.method.alpha) == (7, ("one", "two"), 0.85)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 7", "stepz = 7", r"^mine\.toml:11: method\.stepz is no field of a preset, expected one of: size_hw, "),
        ("steps = 7", "steps = 7.5", r"mine\.toml:11: method\.steps is 7\.5: .*integer"),
        ("steps = 7", 'steps = "7"', r"mine\.toml:11: method\.steps is '7': .*integer"),
        ("steps = 7", "key_norm = 1", r"mine\.toml:11: method\.key_norm is 1: .*boolean"),
        ("steps = 7", 'entropy = "sum"', r"mine\.toml:11: method\.entropy is 'sum': .*'zscore'"),
        ("steps = 7", "size_hw = [64]", r"mine\.toml:11: method\.size_hw has too few values"),
        ('    "two",', "    2,", r"mine\.toml:12: method\.layers is 2: .*string"),
        ('about = "short"', "", r"mine\.toml:1: about is missing"),
        ('about = "short"', 'about = "short"\nname = "x"', r"mine\.toml:3: name is no field of a preset, expected one of: about"),
        ('name = "tiny"\n\n', 'nam = "tiny"\n\n', r"mine\.toml:5: networks\.clip\.nam is no field .* name, hub, revision, path"),
        ("{ name", "{ nam", r"mine\.toml:8: networks\.affinity\.nam is no field"),
        ("[networks.clip]", "[networks.clap]", r"mine\.toml:\d: networks\.cl[ai]p is (missing|no field)"),
        ("steps = 7", "steps = 7\nsteps = 8", r"mine\.toml is no TOML: .*line 12"),
        ("steps = 7", "steps = 1979-05-27", r"mine\.toml:11: method\.steps is '1979-05-27': .*integer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(old: str, new: str, message: str) -> None:
    assert old in SOUND
    with pytest.raises(UsageError, match=message):
        parsed(SOUND.replace(old, new, 1))


def test_every_refusal_says_where_fields_are_explained() -> None:
    with pytest.raises(UsageError, match=r"; docs/presets\.md says what each field means$"):
        parsed(SOUND.replace("steps", "stepz"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml cannot be read: No such file"):
        read_preset_text(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'about = "\xe9"')
    with pytest.raises(UsageError, match=r"latin\.toml is no UTF-8 text"):
        read_preset_text(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(UsageError, match=r"has 1000001 bytes, expected at most 1000000"):
        read_preset_text(tmp_path / "large.toml")


def test_what_is_written_is_read_again_with_its_nulls() -> None:
    content = {
        "a": 'say "hi"\n\u00e9',
        "b": [1, 2.5],
        "t": {"on": True, "none": None, "deep": {"x": -1}, "odd key": {"y": 0}},
    }
    assert without_nulls(loads(preset_toml(content))) == content


def test_a_header_is_written_for_a_table_without_plain_fields_only_if_it_is_empty() -> None:
    assert preset_toml({"a": {"b": {"c": 1}, "d": {}}}) == "\n[a.b]\nc = 1\n\n[a.d]\n"
