import pytest

from tests.contracts.readme_blocks import Command, blocks, commands, make_targets, matches

PLAIN = "text\n```console\n$ echo a\na\n$ echo b\n```\n"
CONTINUED = "```console\n$ echo a \\\n    b\na b\n```\n"
EXCUSED = "<!-- not tested: needs a camera -->\n\n```console\n$ nerve-segment 0\n```\n```console\n$ echo a\n```\n"


def test_commands_come_with_their_output_and_line() -> None:
    assert commands(PLAIN) == [Command("echo a", "a", 3, None), Command("echo b", "", 5, None)]


def test_a_backslash_continues_a_command() -> None:
    assert commands(CONTINUED) == [Command("echo a b", "a b", 2, None)]


def test_an_excuse_counts_for_the_next_block_only() -> None:
    assert [command.not_tested for command in commands(EXCUSED)] == ["needs a camera", None]


def test_an_excuse_followed_by_text_excuses_nothing() -> None:
    assert commands("<!-- not tested: x -->\nSome text\n" + PLAIN)[0].not_tested is None


def test_other_blocks_hold_no_commands() -> None:
    assert commands("```python\n$ echo a\n```\n") == []


def test_the_language_of_a_block_is_read() -> None:
    assert [block.language for block in blocks("```python\nx\n```\n```\ny\n```\n")] == ["python", ""]


def test_an_excuse_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 1: .* gives no reason"):
        commands("<!-- not tested: -->\n" + PLAIN)


def test_an_open_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2: .* never closed"):
        commands("text\n```console\n$ echo a\n")


def test_a_console_block_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2: .* expected a command"):
        commands("```console\necho a\n```\n")


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("a\n", "a"),
        ("a  \nb\n", "a\nb"),
        ("a\n1\n2\nb\n", "a\n...\nb"),
        ("a\nb\n", "a\n..."),
        ("1\nb\n", "...\nb"),
        ("x", ""),
    ],
)
def test_equal_output_matches(printed: str, shown: str) -> None:
    assert matches(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"), [("a\nb\n", "a"), ("b\n", "a"), ("a\n1\nc\n", "a\n...\nb"), ("", "a"), ("ab", "a.")]
)
def test_other_output_does_not_match(printed: str, shown: str) -> None:
    assert not matches(printed, shown)


@pytest.mark.parametrize(
    ("command", "targets"),
    [
        ("make demo", ["demo"]),
        ("make -s check wheel", ["check", "wheel"]),
        ('make demo PIP_ARGS="--extra-index-url URL"', ["demo"]),
        ("make", []),
        ("nerve-build --dry-run", None),
        ("maker demo", None),
    ],
)
def test_make_targets_are_recognised(command: str, targets: list[str] | None) -> None:
    assert make_targets(command) == targets
