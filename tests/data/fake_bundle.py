"""Makes a bundle for the fake back end: a valid manifest, a real tokenizer, and dummy bytes where graphs would be."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from nerve_runtime.bundle.manifest import EngineRecord, Manifest, file_sha256, load_manifest
from nerve_runtime.bundle.spec import BATCHED_STAGES, StageName, StageSpec, TensorSpec
from nerve_runtime.labels import label_dtype

WORDS = ("a", "photo", "of", "red", "green", "blue", "grass", "road", "sky", "ball", "tennis", "zebra")
GRID_HW = (4, 6)
WORKING_HW = (32, 48)
TOKENS, POOLED_KEYS, HEADS, TEXT_WIDTH, CONTEXT_LENGTH = 24, 6, 2, 8, 12
_SHA = "0" * 64


def make_fake_bundle(folder: Path, *, max_classes: int = 254, max_batch: int = 1, **changes: Any) -> Path:
    """Write the bundle into `folder`; `changes` replace lines of its manifest. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        (folder / f"{stage}.onnx").write_bytes(f"dummy bytes of {stage}".encode())
    write_tokenizer(folder / "tokenizer.json")
    write_manifest(folder, max_classes=max_classes, max_batch=max_batch, **changes)
    return folder


def write_manifest(folder: Path, *, max_classes: int = 254, max_batch: int = 1, **changes: Any) -> None:
    """Write a manifest that fits the files as they lie in the folder."""
    names = [f"{stage}.onnx" for stage in STAGES] + ["tokenizer.json"]
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in sorted(names)
    }
    manifest = {**manifest_lines(max_classes, max_batch), "files": files, **changes}
    Manifest.model_validate_json(json.dumps(manifest))
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def list_engine(folder: Path, **changes: Any) -> str:
    """Add an engine to the manifest of a bundle, and five bytes for it; returns its path. `changes` as of the bundle."""
    path = "engines/rtx-sm89/walk.engine"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(b"\x7fELF!")
    engine = EngineRecord(
        stage="walk", target="rtx-sm89", path=path, key=_SHA, onnx_sha256=_SHA, backend_version="1", gpu="sm89",
        os_arch="linux-x86_64", precision="fp32", profile={}, builder_options={},
    )  # fmt: skip
    files = {name: record.model_dump() for name, record in load_manifest(folder).files.items()}
    files[path] = {"bytes": 5, "sha256": file_sha256(folder / path)}
    write_manifest(folder, engines=[engine.model_dump()], files=files, **changes)
    return path


def write_tokenizer(path: Path) -> None:
    """A word-level tokenizer with CLIP's manners: start and end tokens around the prompt, special if typed."""
    vocabulary = {token: number for number, token in enumerate(("<start>", "<end>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken("<start>", special=True), AddedToken("<end>", special=True)])
    tokenizer.save(str(path))


def _tensor(name: str, dtype: Any, *axes: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


_FRAME = _tensor("frame", "uint8", 1, *WORKING_HW, 3)
_WORDS = (
    _tensor("text_embeddings", "float32", "r", TEXT_WIDTH),
    _tensor("class_rows", "int64", "c", "k"),
    _tensor("class_mask", "bool", "c"),
)
_SEEDS = _tensor("seed_scores", "float32", "c", TOKENS)
_AFFINITY = _tensor("affinity", "float32", TOKENS, POOLED_KEYS)
_LOCAL = _tensor("local_weights", "float32", 8, *GRID_HW)
_HEADS = _tensor("head_affinity", "float32", HEADS, TOKENS, POOLED_KEYS)
_SCORES = _tensor("label_scores", "float32", "c", TOKENS)
_PREVIOUS = _tensor("previous_scores", "float32", "c", TOKENS)
_PLACES = (_tensor("previous_tokens", "int64", 4, TOKENS), _tensor("previous_weights", "float32", 4, TOKENS))
_ORIGINS = (_tensor("origin_tokens", "int64", TOKENS), _tensor("origin_visible", "float32", TOKENS))
_CLOSED = (
    _tensor("local_affinity", "float32", TOKENS, POOLED_KEYS),
    _tensor("closed_sum", "float32", POOLED_KEYS, POOLED_KEYS),
)
_LABELS = (_tensor("labels", "uint8", "H", "W"), _tensor("confidence", "uint8", "H", "W"))
_READINGS = (*_LABELS, _tensor("finite", "bool"))


def _scalars(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(name, "float32") for name in names)


def _stage(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> StageSpec:
    return StageSpec(inputs=inputs, outputs=outputs)


_WALK = (_SEEDS, _AFFINITY, _LOCAL)
STAGES: dict[StageName, StageSpec] = {
    "text": _stage(
        (_tensor("token_ids", "int64", "n", CONTEXT_LENGTH),), (_tensor("text_embeddings", "float32", "n", TEXT_WIDTH),)
    ),
    "scores": _stage((_FRAME, *_WORDS, *_scalars("tau")), (_SEEDS,)),
    "attention": _stage((_FRAME,), (_HEADS, _LOCAL)),
    "mix": _stage(
        (_HEADS, _SEEDS, *_scalars("head_temperature")),
        (_AFFINITY, _tensor("head_weights", "float32", HEADS), _tensor("head_entropies", "float32", HEADS)),
    ),
    "walk": _stage((*_WALK, *_scalars("alpha", "beta")), (_SCORES,)),
    "walk_warm": _stage((*_WALK, _PREVIOUS, *_scalars("alpha", "beta")), (_SCORES,)),
    "carry": _stage(
        (_SEEDS, _PREVIOUS, *_PLACES, *_scalars("keep")), (_tensor("carried_scores", "float32", "c", TOKENS),)
    ),
    "local": _stage((_FRAME,), (_LOCAL,)),
    "local_carried": _stage((_tensor("keyframe_weights", "float32", 8, *GRID_HW), _ORIGINS[0]), (_LOCAL,)),
    "walk_carried": _stage((*_WALK, _PREVIOUS, *_ORIGINS, *_scalars("alpha", "beta")), (_SCORES,)),
    "solve": _stage((_AFFINITY, _LOCAL, *_scalars("alpha", "beta")), _CLOSED),
    "walk_exact": _stage((_SEEDS, *_CLOSED, _LOCAL, *_scalars("alpha", "beta")), (_SCORES,)),
    "readout": _stage((_SCORES, _tensor("size_hw", "int64", 2), *_scalars("threshold")), _READINGS),
    "readout_guided": _stage((_SCORES, _FRAME, _tensor("size_hw", "int64", 2), *_scalars("threshold")), _READINGS),
    "frame": _stage((_FRAME, *_WORDS, *_scalars("tau", "alpha", "beta", "head_temperature", "threshold")), _LABELS),
}


def manifest_lines(max_classes: int = 254, max_batch: int = 1) -> dict[str, Any]:
    """The lines of the manifest, but for its files; labels have as many bits as so many classes need."""
    specs = {
        stage: spec.batched() if max_batch > 1 and stage in BATCHED_STAGES else spec for stage, spec in STAGES.items()
    }
    stages: dict[str, Any] = {
        stage: {"onnx": f"{stage}.onnx", "spec": spec.model_dump(mode="json"), "gmac": 0.0}
        for stage, spec in specs.items()
    }
    for stage in ("readout", "readout_guided", "frame"):
        stages[stage]["spec"]["outputs"][0]["dtype"] = label_dtype(max_classes).name
    return {
        "format_version": 1,
        "preset": "fake",
        "opset": 20,
        "precision": "fp32",
        "plan_key": _SHA,
        "geometry": {
            "working_hw": WORKING_HW,
            "grid_hw": GRID_HW,
            "pooled_keys": POOLED_KEYS,
            "heads": HEADS,
            "text_width": TEXT_WIDTH,
            "max_classes": max_classes,
            **({"max_batch": max_batch} if max_batch > 1 else {}),
        },
        "method": {
            "tau": 20.0,
            "alpha": 0.5,
            "beta": 0.5,
            "head_temperature": 1.0,
            "threshold": 0.1,
            "baked": {"steps": 20, "warm_steps": 3},
        },
        "vocabulary": {
            "tokenizer": "tokenizer.json",
            "context_length": CONTEXT_LENGTH,
            "end_token": "<end>",
            "unknown_token": "<unk>",
            "template_sets": {"single": ["{}"], "pair": ["a {}", "a photo of a {}"]},
            "default_template_set": "single",
        },
        "stages": stages,
        "weights": [],
        "tool_versions": {"test": "1"},
    }
