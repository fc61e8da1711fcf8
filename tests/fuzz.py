"""Feeds mutated graphs, manifests and bundles to the runtime and counts what becomes of them; see `make fuzz`.

Hashes are made to fit wherever a graph is mutated, so that it is the checks behind the hash that are tried. A worker
process takes case after case; should one kill it, or take longer than 5 s, the next worker goes on after it.
"""

import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, get_args

import numpy as np

from nerve_runtime.backends import BackendOptions
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import Manifest, file_sha256, load_manifest
from nerve_runtime.bundle.spec import Array, StageName, TensorSpec
from nerve_runtime.errors import NerveError
from nerve_runtime.segmenter import Segmenter
from nerve_runtime.temporal import Between, Temporal
from tests.data.fake_bundle import make_fake_bundle

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "tiny"
CASES = 3000
HANG_S = 5.0
START_S = 60.0
MEMORY_BYTES = 8 * 2**30
GRAPHS: tuple[StageName, ...] = ("readout", "walk_warm", "walk", "mix")  # those that open in milliseconds
SIZES = {"c": 3, "H": 40, "W": 56, "k": 2, "r": 6, "n": 2}
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1, 255, 2**31, 2**63, 2**64, 10**30, -1e308, 1e-320, "", "x" * 5000, "../up", "/etc/passwd",
    "\u0000", "\U0001f9e8", [], {}, [[]], [0] * 100, {"a": {"b": []}},
)  # fmt: skip


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to six places flipped, overwritten, removed, doubled or filled with noise; half keep their length.

    Only those get past the outer form of a graph often enough to try what lies behind it.
    """
    changed = bytearray(content)
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    for _ in range(rng.randint(1, 6)):
        at, count = rng.randrange(len(changed) + 1), rng.choice((1, 1, 1, 2, 4, 8, 64))
        other = rng.randrange(len(changed) + 1)
        pieces = (
            bytes(byte ^ 1 << rng.randrange(8) for byte in changed[at : at + 1]),
            rng.randbytes(count),
            b"",
            bytes(changed[other : other + count]),
            b"\xff" * count,
        )
        changed[at : at + count] = rng.choice(pieces)
    return bytes(changed)


def mutated_lines(lines: Any, rng: random.Random) -> None:
    """Change some values of a manifest's JSON, anywhere in it, in place."""
    for _ in range(rng.randint(1, 3)):
        place, deep = lines, rng.randint(0, 6)
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if deep > 0 and isinstance(place[key], dict | list):
                place, deep = place[key], deep - 1
                continue
            if rng.random() < 0.15:
                del place[key]
            else:
                place[key] = rng.choice(NASTY)
            break


def example(spec: TensorSpec, rng: random.Random) -> Array:
    """An input of the right form."""
    if spec.name == "size_hw":
        return np.array([SIZES["H"], SIZES["W"]], dtype=np.int64)
    shape = [SIZES[axis] if isinstance(axis, str) else axis for axis in spec.axes]
    numbers = np.random.default_rng(rng.randrange(2**32)).random(shape) * (255 if spec.dtype == "uint8" else 1)
    return numbers.astype(spec.dtype)


def graph_case(folder: Path, manifest: Manifest, rng: random.Random) -> None:
    """Open and run a mutated graph whose hash is right."""
    stage = rng.choice(GRAPHS)
    record = manifest.stages[stage]
    path = folder / record.onnx
    path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    files = {record.onnx: manifest.files[record.onnx].model_copy(
        update={"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    )}  # fmt: skip
    alone = manifest.model_copy(update={"files": files, "stages": {stage: record}})
    with OrtBackend(folder, alone, BackendOptions(threads=1)) as backend:
        session = backend.open_session(stage)
        for _ in range(2):
            session.run({spec.name: example(spec, rng) for spec in record.spec.inputs})


def manifest_case(folder: Path, manifest: Manifest, rng: random.Random) -> None:
    """Open a bundle whose manifest was mutated, as bytes or in its meaning; segment a keyframe and, with new words, the next."""
    path = folder / "manifest.json"
    if rng.random() < 0.5:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    else:
        lines = json.loads(path.read_text(encoding="utf-8"))
        mutated_lines(lines, rng)
        path.write_text(json.dumps(lines), encoding="utf-8")
    loaded = load_manifest(folder)
    between = rng.choice(get_args(Between))
    temporal = Temporal(between=between, change=0, cut=0)
    backend = FakeBackend(loaded)
    with Segmenter.open(folder, ["red", "sky"], backend=backend, temporal=temporal, cache_dir=None) as segmenter:
        segmenter.segment(np.full((20, 30, 3), 90, dtype=np.uint8))
        segmenter.set_classes(["red", "grass", "sky"])
        segmenter.segment(np.full((20, 30, 3), 90, dtype=np.uint8))


def bundle_case(folder: Path, manifest: Manifest, rng: random.Random) -> None:
    """Open a bundle some of whose files were mutated, cut, removed, swapped or linked; its manifest stays."""
    names = sorted(path.name for path in folder.iterdir())
    first, second = folder / rng.choice(names), folder / rng.choice(names)
    content = first.read_bytes()
    other = second.read_bytes()
    first.unlink()
    harms: tuple[Callable[[], object], ...] = (
        lambda: first.write_bytes(mutated_bytes(content, rng)),
        lambda: first.write_bytes(content[: rng.randrange(len(content) + 1)]),
        lambda: first.write_bytes(other),
        lambda: first.symlink_to(second),
        lambda: first.mkdir(),
        lambda: None,  # it is gone
    )
    rng.choice(harms)()
    with Segmenter.open(folder, ["red", "sky"], backend="ort", cache_dir=None) as segmenter:
        segmenter.segment(np.full((20, 30, 3), 90, dtype=np.uint8))


KINDS = {"graph": graph_case, "manifest": manifest_case, "bundle": bundle_case}


def run_case(number: int, bundle: Path, scratch: Path) -> str:
    """What became of one case: `accepted`, `refused N` with the exit code, or the name of an error that is our bug."""
    rng = random.Random(number)
    kind = ("graph", "graph", "manifest", "bundle")[number % 4]
    folder = scratch / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    if kind == "graph":
        manifest = load_manifest(bundle)
        folder.mkdir()
        for stage in GRAPHS:
            shutil.copyfile(bundle / manifest.stages[stage].onnx, folder / manifest.stages[stage].onnx)
    else:
        manifest = load_manifest(make_fake_bundle(folder))
    try:
        KINDS[kind](folder, manifest, rng)
    except NerveError as error:
        return f"{kind} refused {error.exit_code}"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding: it is counted and shown
        return f"{kind} BUG {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return f"{kind} accepted"


def work(first: int, last: int, bundle: Path) -> None:
    """The worker: a line when a case begins and one when it has ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(first, last):
            sys.stdout.write(f"{number}\n{run_case(number, bundle, Path(scratch))}\n")
            sys.stdout.flush()


def watch(command: Sequence[str], first: int, last: int, outcomes: Counter[str], **options: Any) -> int:
    """Run a worker, `command` and the number of its first case; returns the case to go on with."""
    command = [*command, str(first)]
    worker = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
    )
    lines: Queue[str | None] = Queue()
    Thread(target=_forward, args=(worker, lines), daemon=True).start()
    running, patience_s = first, START_S
    while True:
        try:
            line = lines.get(timeout=patience_s)
        except Empty:
            worker.kill()
            worker.wait()
            outcomes[f"HANG in case {running}"] += 1
            return running + 1
        patience_s = HANG_S
        if line is None:
            break
        if line.isdigit():
            running = int(line)
            continue
        outcomes[line if "BUG" not in line else f"{line} (case {running})"] += 1
    if worker.wait() == 0:
        return last
    if worker.returncode > 0:
        raise RuntimeError(f"the worker failed outside a case, after case {running}; see why with: {' '.join(command)}")
    outcomes[f"SIGNAL {worker.returncode} in case {running}"] += 1
    return running + 1


def _forward(worker: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    for line in worker.stdout or ():
        lines.put(line.strip())
    lines.put(None)


def main() -> int:
    """Run all cases and say how they ended; 1 if any was more than a refusal. Words: [CASES [BUNDLE]]."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    bundle = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else BUNDLE
    if len(sys.argv) > 3:
        work(int(sys.argv[3]), cases, bundle)
        return 0
    return run_all([sys.executable, "-m", "tests.fuzz", str(cases), str(bundle)], cases)


def run_all(command: Sequence[str], cases: int, **options: Any) -> int:
    """Run workers until all cases are done and print how they ended; 1 if any was more than a refusal."""
    outcomes: Counter[str] = Counter()
    started, following = time.monotonic(), 0
    while following < cases:
        following = watch(command, following, cases, outcomes, **options)
    bad = [outcome for outcome in outcomes if any(word in outcome for word in ("BUG", "HANG", "SIGNAL"))]
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{count:6d}  {outcome}\n")
    sys.stdout.write(f"{cases} cases in {time.monotonic() - started:.0f} s, {len(bad)} kinds of findings\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
