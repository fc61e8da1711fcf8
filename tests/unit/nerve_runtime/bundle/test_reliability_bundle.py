"""Damaged and hostile bundles: rows 2, 4, 5, 6 and 12 of the fault table, from the outside."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from nerve_runtime.backends import BackendOptions
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import EngineRecord, load_manifest, manifest_bytes, verify_bundle, verify_file
from nerve_runtime.errors import BundleError, CompatibilityError
from nerve_runtime.segmenter import Segmenter
from nerve_runtime.vocabulary import tokenizer as tokenizer_module
from nerve_stream.cli import segment as cli
from tests.data.fake_bundle import make_fake_bundle
from tests.data.tiny_bundle import tiny_bundle_folder

pytestmark = pytest.mark.onnx
SEEDS = 500
Changed = Callable[..., None]


class Parsers:
    """Stand in for both parsers: note the hash of whatever they are given to read."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def session(self, path: str, options: Any, providers: list[str], enable_fallback: int) -> None:
        self.read.add(hashlib.sha256(Path(path).read_bytes()).hexdigest())
        raise RuntimeError("the graph's parser was reached")

    def from_str(self, text: str) -> Any:
        self.read.add(hashlib.sha256(text.encode()).hexdigest())
        return Tokenizer.from_str(text)


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> Parsers:
    import onnxruntime

    parsers = Parsers()
    monkeypatch.setattr(onnxruntime, "InferenceSession", parsers.session)
    monkeypatch.setattr(tokenizer_module, "Tokenizer", parsers)
    return parsers


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    """A bundle whose manifest carries its own hash, as the builder writes it, and a file that no run reads."""
    folder = make_fake_bundle(tmp_path / "bundle")
    (folder / "licences.txt").write_text("all rights are left", encoding="utf-8")
    manifest = load_manifest(folder)
    record = {"bytes": 19, "sha256": hashlib.sha256(b"all rights are left").hexdigest()}
    lines = json.loads(manifest.model_dump_json())
    lines["files"]["licences.txt"] = record
    stamped = type(manifest).model_validate_json(json.dumps(lines))
    (folder / "manifest.json").write_bytes(manifest_bytes(stamped))
    return folder


def open_it(bundle: Path) -> None:
    Segmenter.open(bundle, classes=["red", "sky"], backend="ort", cache_dir=None).close()


def flip(path: Path, rng: random.Random) -> bytes:
    """Flip one bit of a file; returns what it was."""
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(changed)
    return whole


def test_row_2_a_bit_flipped_anywhere_in_a_bundle_is_refused_before_any_parser_reads_it(
    own_bundle: Path, parsers: Parsers
) -> None:
    rng = random.Random(2)
    names = sorted(path.name for path in own_bundle.iterdir())
    intact = load_manifest(own_bundle)
    refused = dict.fromkeys(names, 0)
    for _ in range(SEEDS):
        name = rng.choice(names)
        whole = flip(own_bundle / name, rng)
        damaged = hashlib.sha256((own_bundle / name).read_bytes()).hexdigest()
        with pytest.raises(BundleError, match=r"sha256|not a valid manifest"):
            open_it(own_bundle)
        assert damaged not in parsers.read
        refused[name] += 1
        (own_bundle / name).write_bytes(whole)
    assert load_manifest(own_bundle) == intact
    assert sum(refused.values()) == SEEDS
    assert min(refused.values()) > 0
    assert parsers.read <= {
        intact.files["tokenizer.json"].sha256
    }  # the intact one may be read before a graph is refused


@pytest.mark.slow
def test_row_2_a_bit_flipped_anywhere_in_the_tiny_bundle_is_refused_before_any_parser_reads_it(
    tmp_path: Path, parsers: Parsers
) -> None:
    """Every byte of the bundle is hit with the same chance, so most flips are in weights."""
    folder = shutil.copytree(tiny_bundle_folder(), tmp_path / "tiny")
    rng = random.Random(8248)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    sizes = [path.stat().st_size for path in paths]
    intact = load_manifest(folder)
    for _ in range(SEEDS):
        (path,) = rng.choices(paths, sizes)
        place, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
        flip_at(path, place, bit)
        with pytest.raises(BundleError, match=r"sha256|not a valid manifest"):
            Segmenter.open(folder, classes=["grass", "zebra"], backend="ort", cache_dir=None).close()
        flip_at(path, place, bit)
    assert parsers.read <= {intact.files["tokenizer.json"].sha256}
    assert load_manifest(folder) == intact


def flip_at(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ bit]))


def test_row_2_the_intact_bundle_does_reach_the_parsers(own_bundle: Path, parsers: Parsers) -> None:
    from tests.data.hand_made_graphs import doubling

    doubling(own_bundle / "text.onnx")
    content = (own_bundle / "text.onnx").read_bytes()
    lines = json.loads(load_manifest(own_bundle).model_dump_json())
    lines["files"]["text.onnx"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (own_bundle / "manifest.json").write_text(json.dumps(lines), encoding="utf-8")
    with pytest.raises(BundleError, match="the graph's parser was reached"):
        open_it(own_bundle)
    assert parsers.read == {lines["files"]["text.onnx"]["sha256"], lines["files"]["tokenizer.json"]["sha256"]}


def test_row_2_every_bit_of_a_manifest_counts(own_bundle: Path) -> None:
    path = own_bundle / "manifest.json"
    rng, whole = random.Random(3), path.read_bytes()
    for _ in range(100):
        flip(path, rng)
        with pytest.raises(BundleError, match=r"was changed after it was written: its sha256 is|not a valid manifest"):
            load_manifest(own_bundle)
        path.write_bytes(whole)
    assert load_manifest(own_bundle).preset == "fake"


def test_row_2_a_manifest_written_by_hand_needs_no_hash_but_two_are_refused(own_bundle: Path) -> None:
    path = own_bundle / "manifest.json"
    whole, loaded = path.read_text(encoding="utf-8"), load_manifest(own_bundle)
    path.write_text(loaded.model_dump_json(), encoding="utf-8")
    assert load_manifest(own_bundle) == loaded
    line = whole[whole.index('"manifest_sha256"') :].split("\n")[0]
    path.write_text(whole.replace("{", "{" + line + ",", 1), encoding="utf-8")
    with pytest.raises(BundleError, match="it has manifest_sha256 2 times"):
        load_manifest(own_bundle)


def test_row_2_a_file_that_a_run_does_not_need_is_verified_too_but_engines_are_left_to_their_back_end(
    own_bundle: Path,
) -> None:
    (own_bundle / "licences.txt").write_text("all rights are LEFT", encoding="utf-8")
    with pytest.raises(BundleError, match=r"licences\.txt: sha256"):
        open_it(own_bundle)
    manifest = load_manifest(own_bundle)
    engine = EngineRecord.model_construct(path="licences.txt")
    with_engine = manifest.model_copy(update={"engines": (engine,)})
    verify_bundle(own_bundle, with_engine, engines=False)
    with pytest.raises(BundleError, match=r"licences\.txt: sha256"):
        verify_bundle(own_bundle, with_engine)


@pytest.mark.parametrize("missing", ["parity.json", "x" * 300])
def test_a_listed_file_that_cannot_be_there_is_refused(own_bundle: Path, missing: str) -> None:
    manifest = load_manifest(own_bundle)
    files = {**manifest.files, missing: manifest.files["licences.txt"]}
    with pytest.raises(BundleError, match=r"is missing or no plain file|cannot be read: File name too long"):
        verify_file(own_bundle, manifest.model_copy(update={"files": files}), missing)


@pytest.mark.parametrize("path", ["a//b", "./b", ".", "", "b/", "a\x00b", "a\nb", "*/b", "a?", "a|b"])
def test_paths_that_mean_different_things_on_different_systems_are_refused(own_bundle: Path, path: str) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    lines["files"][path] = lines["files"]["licences.txt"]
    del lines["manifest_sha256"]
    (own_bundle / "manifest.json").write_text(json.dumps(lines), encoding="utf-8")
    with pytest.raises(BundleError, match="must be relative, with forward slashes, and stay inside the bundle"):
        load_manifest(own_bundle)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("geometry", "working_hw"), [10**9, 10**9]),
        (("geometry", "heads"), 10**12),
        (("method", "tau"), float("inf")),
        (("stages", "walk", "gmac"), float("nan")),
        (("vocabulary", "template_sets", "single"), []),
        (("vocabulary", "template_sets", "single"), ["no place for the word"]),
        (("stages", "walk", "spec", "outputs", 0, "axes"), [-1, 24]),
        (("stages", "walk", "spec", "outputs", 0, "axes"), [10**6, 10**6]),
    ],
)
def test_values_that_would_cost_all_memory_or_are_none_are_refused(
    own_bundle: Path, keys: tuple[Any, ...], value: Any
) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    del lines["manifest_sha256"]
    place = lines
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (own_bundle / "manifest.json").write_text(json.dumps(lines), encoding="utf-8")
    with pytest.raises(BundleError, match="is not a valid manifest"):
        load_manifest(own_bundle)


def as_hub_cache(bundle: Path, folder: Path, *, linked: Callable[[str], bool]) -> Path:
    """The bundle as the hub's cache lays it out: blobs by hash, and a snapshot of links to them."""
    snapshot, blobs = folder / "snapshots" / ("0" * 40), folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in bundle.iterdir():
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        if linked(path.name):
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
        else:
            shutil.copyfile(path, snapshot / path.name)
    return snapshot


@pytest.mark.parametrize("which", ["all", "graphs", "manifest"])
def test_row_5_a_snapshot_of_a_hub_cache_is_refused_with_what_to_do(
    own_bundle: Path, parsers: Parsers, which: str, tmp_path: Path
) -> None:
    picked: dict[str, Callable[[str], bool]] = {
        "all": lambda name: True,
        "graphs": lambda name: name.endswith(".onnx"),
        "manifest": lambda name: name == "manifest.json",
    }
    snapshot = as_hub_cache(own_bundle, tmp_path / "hub", linked=picked[which])
    (tmp_path / "frame.png").write_bytes(b"not looked at")
    words = [str(tmp_path / "frame.png"), "--bundle", str(snapshot), "--backend", "ort", "--classes", "red; sky"]
    ended = CliRunner().invoke(cli.app, words, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert ended.exit_code == 3, ended.output
    assert "is a symbolic link; a bundle holds real files only. From a hub cache, download with local_dir=" in " ".join(
        ended.output.split()
    )
    assert not any(read != load_manifest(own_bundle).files["tokenizer.json"].sha256 for read in parsers.read)


def test_row_5_a_link_to_the_bundles_folder_is_fine(own_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(own_bundle)
    verify_bundle(tmp_path / "current", load_manifest(tmp_path / "current"))
    assert (tmp_path / "current").readlink() == own_bundle


def add_graph(bundle: Path, *, operator: str, location: str | None) -> None:
    """Put a hostile `text` graph into the bundle, with the right hash in the manifest."""
    from tests.unit.nerve_runtime.bundle.test_graph_check import external, model_of, onnx

    weights = external("mean", location=location) if location else None
    node = onnx.helper.make_node(operator, ["x", "w"], ["y"], name="third")
    content = model_of(weights, [node]).SerializeToString()
    (bundle / "text.onnx").write_bytes(content)
    lines = json.loads(load_manifest(bundle).model_dump_json())
    lines["files"]["text.onnx"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("operator", "location", "said"),
    [
        (
            "Add",
            "../../etc/passwd",
            r"keeps weights 'mean' in '\.\./\.\./etc/passwd', expected a plain name among none",
        ),
        ("Add", "tokenizer.json", r"keeps weights 'mean' in 'tokenizer\.json', expected a plain name among none"),
        ("Loop", None, "has a node 'third' with operator ai.onnx::Loop"),
    ],
)
def test_rows_4_and_6_a_hostile_graph_with_the_right_hash_never_reaches_onnxruntime(
    own_bundle: Path, parsers: Parsers, operator: str, location: str | None, said: str
) -> None:
    add_graph(own_bundle, operator=operator, location=location)
    with pytest.raises(BundleError, match=said):
        OrtBackend(own_bundle, load_manifest(own_bundle)).open_session("text")
    assert parsers.read == set()


def test_row_12_a_session_runs_where_it_was_asked_to(own_bundle: Path) -> None:
    from tests.data.hand_made_graphs import DOUBLING, doubling, manifest_of

    doubling(own_bundle / "text.onnx")
    session: Any = OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING)).open_session("text")
    assert session._session.get_providers() == ["CPUExecutionProvider"]


def test_row_12_a_gpu_that_onnxruntime_cannot_use_is_an_error_not_a_slow_run(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from tests.data.hand_made_graphs import DOUBLING, doubling, manifest_of

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA: the refusal cannot be seen here")
    doubling(own_bundle / "text.onnx")
    manifest = manifest_of(own_bundle, "text", DOUBLING)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    backend = OrtBackend(
        own_bundle, manifest, BackendOptions(providers="cuda")
    )  # the real library, which only warns by itself
    assert backend._session_options().get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(CompatibilityError, match=r"text\.onnx would not run on CUDAExecutionProvider alone"),
    ):
        backend.open_session("text")


def test_row_12_the_command_ends_with_exit_code_4(own_bundle: Path, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA: the refusal cannot be seen here")
    cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((8, 8, 3), np.uint8))
    words = [
        str(tmp_path / "frame.png"),
        "--bundle",
        str(own_bundle),
        "--backend",
        "ort",
        "--providers",
        "cuda",
        "--classes",
        "red; sky",
    ]
    ended = CliRunner().invoke(cli.app, words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert ended.exit_code == 4
    assert "has no CUDAExecutionProvider" in " ".join(ended.output.split())
