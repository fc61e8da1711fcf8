from pathlib import Path

import pytest

from nerve_runtime import UsageError
from nerve_stream.cli.text_files import read_class_file


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_class_file_may_have_bom_crlf_comments_and_empty_lines(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfladybug  # red\r\n\r\n# nothing\r\ntennis ball; ball\r\ncaf\xc3\xa9"
    assert read_class_file(write(tmp_path / "names.txt", content)) == ["ladybug", "tennis ball, ball", "caf\u00e9"]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2 is not UTF-8 .*save the file as UTF-8"):
        read_class_file(write(tmp_path / "names.txt", b"zebra\ncaf\xe9\n"))


def test_a_line_with_nul_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 3 holds the character U\+0000"):
        read_class_file(write(tmp_path / "names.txt", b"zebra\n\ngr\0ass\n"))


def test_a_class_file_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no entry"):
        read_class_file(write(tmp_path / "names.txt", b"# only a comment\n"))
    with pytest.raises(UsageError, match="is not a file"):
        read_class_file(tmp_path)
    with pytest.raises(UsageError, match="expected at most 1000000"):
        read_class_file(write(tmp_path / "large.txt", b"x\n" * 600_000))
