"""The C++ code between class names and token ids, built for tests and asked in JSON."""

import ctypes
import json
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "class_list", "close_matches", "sha256", "strict_json", "tokenizer", "tokenizer_json", "tokenizer_pieces", "unicode",
    "vocabulary", "vocabulary_file",
)  # fmt: skip
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Words:
    """Answers questions; each is a function of `internals_words.cc`."""

    def __init__(self, library: Path) -> None:
        self._answer = ctypes.CDLL(str(library)).words_answer
        self._answer.restype = ctypes.c_char_p

    def ask(self, question: str, **given: Any) -> Any:
        """The answer to a question, or what went wrong, under `internal`."""
        answer = self._answer(question.encode(), json.dumps(given).encode())
        return json.loads(answer)


def build(folder: Path, flags: Sequence[str] = ("-shared",), *more_sources: Path) -> Path:
    """Compile the sources with all warnings into a library, or a program, in `folder`."""
    native, output = ROOT / "runtime/native", folder / "words"
    sources = [*(native / f"src/{name}.cc" for name in SOURCES), Path(__file__).with_name("internals_words.cc")]
    json_headers = Path(sysconfig.get_path("purelib")) / "nlohmann_json/include"
    command = [
        "g++", "-std=c++17", "-O1", *WARNINGS, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *flags,
        f"-I{native / 'include'}", f"-I{native / 'src'}", "-isystem", str(json_headers),
        *map(str, (*sources, *more_sources)), "-o", str(output),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return output
