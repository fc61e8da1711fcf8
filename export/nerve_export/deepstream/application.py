"""Writes the folder of a DeepStream application: whole, or not at all."""

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from nerve_export.bundle import replaced_folder
from nerve_export.deepstream.graph import MODEL, FrameGraph, frame_graph, write_model
from nerve_export.deepstream.vocabulary import Vocabulary, read_vocabulary
from nerve_runtime.bundle.manifest import Manifest, load_manifest, verify_file
from nerve_runtime.bundle.spec import Array
from nerve_runtime.errors import BundleError

MARK = ".nerve-deepstream"
"""A file that says that a folder is an application of ours, which may be replaced."""
CONFIG_NAME = "config_infer_nerve.txt"
COPIED = ("Makefile", "nerve_deepstream.cc", "nerve_meta.h", "nerve_tensors.cc", "nerve_tensors.h")
FILLED_IN = (CONFIG_NAME, "README.md", "segment.sh")
IN_PROCESS = 'model_repo { root: "model_repository" strict_model_config: true }'
REMOTE = 'grpc { url: "$url" enable_cuda_buffer_sharing: false }'


def write_application(bundle: Path, vocabulary: Path, out: Path, *, url: str | None, force: bool) -> Path:
    """Write a DeepStream application for the graph `frame` of a bundle.

    Args:
        bundle: its folder.
        vocabulary: the classes, a file of `nerve-vocab`.
        out: the folder to write.
        url: host:port of a Triton server that has the model; None: DeepStream opens it in its own process.
        force: replace an application that is there.

    Raises:
        BundleError: the bundle is damaged, has no graph `frame`, or something else than an application of ours is at `out`.
        UsageError: the vocabulary does not belong to it, an application is at `out` and `force` is not given, `out` lies
            within the bundle, or the bundle or the vocabulary within `out`.
        ResourceError: `out` cannot be written, or another nerve-build writes there; nothing is left behind.
    """
    manifest = load_manifest(bundle)
    if "frame" not in manifest.stages:
        raise BundleError(f"bundle {bundle} has no graph 'frame', which an application runs; build it with nerve-build")
    words = read_vocabulary(vocabulary, manifest)
    sizes = {"c": words.class_rows.shape[0], "k": words.class_rows.shape[1], "r": words.text_embeddings.shape[0]}
    graph = frame_graph(manifest, sizes)
    kind = "application that nerve-build deepstream"
    with replaced_folder(out, MARK, kind, bundle, [vocabulary], force=force) as staged:
        _write_texts(staged, graph, manifest, words, url)
        _write_inputs(staged / "inputs", constant_inputs(manifest, words), graph)
        _write_repository(staged / "model_repository" / MODEL, bundle, manifest, graph)
        (staged / MARK).write_text(f"{manifest.plan_key}\n", encoding="ascii")
    return out


def constant_inputs(manifest: Manifest, words: Vocabulary) -> dict[str, Array]:
    """Every input of the graph `frame` but the frame, for one frame."""
    method = manifest.method
    numbers = {
        "tau": method.tau,
        "alpha": method.alpha,
        "beta": method.beta,
        "head_temperature": method.head_temperature,
        # Without a background no pixel may fall below the threshold, as in the runtime.
        "threshold": method.threshold if words.has_background else 0.0,
    }
    return {
        "text_embeddings": words.text_embeddings,
        "class_rows": words.class_rows,
        "class_mask": np.ones(len(words.class_rows), dtype=np.bool_),
        **{name: np.array([value], dtype=np.float32) for name, value in numbers.items()},
    }


def _write_texts(folder: Path, graph: FrameGraph, manifest: Manifest, words: Vocabulary, url: str | None) -> None:
    height, width = manifest.geometry.working_hw
    backend = IN_PROCESS if url is None else Template(REMOTE).substitute(url=url)
    values = {
        "backend": backend,
        "batch": graph.max_batch,
        "classes": len(words.class_names),
        "height": height,
        "model": MODEL,
        "preset": manifest.preset,
        "width": width,
    }
    templates = files("nerve_export.deepstream") / "templates"
    for name in COPIED:
        (folder / name).write_bytes((templates / name).read_bytes())
    for name in FILLED_IN:
        text = (templates / name).read_text(encoding="utf-8")
        (folder / name).write_text(Template(text).substitute(values), encoding="utf-8")
    (folder / "segment.sh").chmod(0o755)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in words.class_names), encoding="utf-8")


def _write_inputs(folder: Path, arrays: Mapping[str, Array], graph: FrameGraph) -> None:
    folder.mkdir()
    for tensor in graph.inputs:
        if tensor.name == "frame":
            continue
        array = arrays[tensor.name]
        if array.dtype != np.dtype(tensor.dtype) or array.shape != graph.dims(tensor):
            raise BundleError(f"input {tensor.name!r} of graph 'frame' is {tensor}, got {array.dtype} {array.shape}")
        little_endian = array.astype(array.dtype.newbyteorder("<"))
        (folder / f"{tensor.name}.bin").write_bytes(np.ascontiguousarray(little_endian).tobytes())


def _write_repository(folder: Path, bundle: Path, manifest: Manifest, graph: FrameGraph) -> None:
    stage = manifest.stages["frame"]
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(graph.config(), encoding="utf-8")
    write_model(verify_file(bundle, manifest, stage.onnx), version / "model.onnx", is_batched=graph.is_batched)
    for path in stage.external_data:
        copy = version / Path(path).relative_to(Path(stage.onnx).parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(verify_file(bundle, manifest, path), copy)
