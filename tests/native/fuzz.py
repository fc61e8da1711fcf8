"""Feeds mutated bundles, manifests, tokenizers and vocabulary files to the C library under a sanitizer; see `make fuzz-abi`.

Hashes are made to fit in half of the cases and more, so that it is the parsers behind them that are tried. Words:
LIBRARY [CASES].
"""

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nerve_runtime import NerveError, Segmenter, Temporal
from nerve_runtime.bundle.manifest import MANIFEST_SHA256
from nerve_runtime.vocabulary import text_sha256
from nerve_runtime.vocabulary.vocabulary_file import VOCABULARY_SHA256
from nerve_stream.vocabulary_file import save_vocabulary
from tests.fuzz import mutated_bytes, mutated_lines, run_all
from tests.native.binding import BETWEEN, NativeSegmenter, installed_onnxruntime, open_library, params_for
from tests.native.small_bundle import make_small_bundle

CASES = 3000
KINDS = ("manifest", "vocabulary", "graph", "manifest", "vocabulary", "tokenizer", "bundle")
CLASSES = "red; sky, ball; green"
STACK_BYTES = 64 * 2**20
VOCABULARY = "words.safetensors"


def make_scratch(folder: Path) -> None:
    """A bundle with a vocabulary file beside it."""
    bundle = make_small_bundle(folder / "bundle")
    with Segmenter.open(bundle, CLASSES, cache_dir=None) as segmenter:
        save_vocabulary(folder / VOCABULARY, segmenter._vocabulary.bank, text_sha256(segmenter.manifest))


def refit_file(bundle: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    path = bundle / "manifest.json"
    lines = json.loads(path.read_text(encoding="utf-8"))
    content = (bundle / name).read_bytes()
    lines["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(lines), encoding="utf-8")


def mutate(kind: str, folder: Path, rng: random.Random) -> None:
    """Change one file of the scratch folder."""
    bundle = folder / "bundle"
    if kind == "manifest":
        path = bundle / "manifest.json"
        if rng.random() < 0.6:
            lines = json.loads(path.read_text(encoding="utf-8"))
            mutated_lines(lines, rng)
            path.write_text(json.dumps(lines), encoding="utf-8")
        else:
            path.write_bytes(MANIFEST_SHA256.filled_in(mutated_bytes(path.read_bytes(), rng)))
    elif kind == "vocabulary":
        content = mutated_bytes((folder / VOCABULARY).read_bytes(), rng)
        (folder / VOCABULARY).write_bytes(content if rng.random() < 0.3 else VOCABULARY_SHA256.filled_in(content))
    elif kind == "bundle":
        path = rng.choice(sorted(bundle.iterdir()))
        path.write_bytes(mutated_bytes(path.read_bytes(), rng)[: rng.randrange(4000)])
    else:
        stages = sorted(path.name for path in bundle.glob("*.onnx"))
        name = "tokenizer.json" if kind == "tokenizer" else rng.choice(stages)
        if kind == "tokenizer" and rng.random() < 0.6:
            lines = json.loads((bundle / name).read_text(encoding="utf-8"))
            mutated_lines(lines, rng)
            (bundle / name).write_text(json.dumps(lines), encoding="utf-8")
        else:
            (bundle / name).write_bytes(mutated_bytes((bundle / name).read_bytes(), rng))
        refit_file(bundle, name)


class Cases:
    """Runs cases against one library."""

    def __init__(self, library: Path, onnxruntime: Path, scratch: Path) -> None:
        self._library, self._onnxruntime, self._scratch = open_library(library), onnxruntime, scratch
        make_scratch(scratch / "whole")

    def run(self, number: int) -> str:
        """What became of one case: `accepted`, `refused N` with the code, or what is our bug."""
        rng = random.Random(number)
        kind = KINDS[number % len(KINDS)]
        folder = self._scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._scratch / "whole", folder)
        mutate(kind, folder, rng)
        try:
            self._use(folder, kind, Temporal(between=rng.choice(BETWEEN), smoothing=0, change=0, cut=0))  # type: ignore[arg-type]
        except NerveError as error:
            bug = error.exit_code == 1 or not str(error)
            return f"{kind} BUG {error}" if bug else f"{kind} refused {error.exit_code}"
        return f"{kind} accepted"

    def _use(self, folder: Path, kind: str, temporal: Temporal) -> None:
        params = params_for(self._library, self._onnxruntime, temporal, threads=1)
        rgb = np.full((20, 30, 3), 90, dtype=np.uint8)
        with NativeSegmenter.open(self._library, folder / "bundle", params) as native:
            info = native.info()
            flow = np.zeros((info.motion_height, info.motion_width, 2), dtype=np.float32)
            if kind != "tokenizer":
                native.set_vocabulary(folder / VOCABULARY)
                native.segment(rgb)
            native.set_classes(CLASSES, "grass")
            for _ in range(2):
                native.segment(rgb, flow=flow)


def work(library: Path, onnxruntime: Path, last: int, first: int) -> None:
    """The worker: a line when a case begins and one when it has ended."""
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES))
    with tempfile.TemporaryDirectory() as scratch:
        cases = Cases(library, onnxruntime, Path(scratch))
        for number in range(first, last):
            sys.stdout.write(f"{number}\n{cases.run(number)}\n")
            sys.stdout.flush()


def sanitized_environment() -> dict[str, str]:
    """What lets this Python load a library with the address sanitizer; Python's own leaks are left out."""
    # libstdc++ too: the sanitizer looks for what throws exceptions when the process starts.
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    options = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096:abort_on_error=1"
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1",
    }


def main() -> int:
    """Run all cases and say how they ended; 1 if any was more than a refusal."""
    library, onnxruntime = Path(sys.argv[1]).resolve(), installed_onnxruntime()
    assert onnxruntime is not None, "not installed: onnxruntime"
    cases = int(sys.argv[2]) if len(sys.argv) > 2 else CASES
    if len(sys.argv) > 3:
        work(library, onnxruntime, cases, int(sys.argv[3]))
        return 0
    command = [sys.executable, "-m", "tests.native.fuzz", str(library), str(cases)]
    return run_all(command, cases, env=sanitized_environment())


if __name__ == "__main__":
    sys.exit(main())
