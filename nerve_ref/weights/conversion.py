"""Turns PyTorch's pickles of a hub mirror that has nothing else into safetensors; the only place that reads a pickle."""

import json
import pickle
from pathlib import Path, PurePosixPath

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.whole_files import RememberedDigests, file_sha256, read_json_object, write_text_whole


def safetensors_name(path: str) -> str:
    """The name under which a converted file lies: that by which transformers and diffusers find it."""
    given = PurePosixPath(path)
    stem = "model" if given.stem == "pytorch_model" else given.stem
    return str(given.with_name(f"{stem}.safetensors"))


def convert_pickle(source: Path, target: Path, source_sha256: str) -> None:
    """Read tensors with `torch.load(weights_only=True)`, which runs no code of the file, and save them as safetensors.

    The caller has checked the hash of `source`. Both hashes are noted beside `target` for `is_conversion_of`.

    Raises:
        WeightError: the file holds anything but named tensors.
    """
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise WeightError(f"{source.name} is refused: it holds more than tensors, or is damaged ({reason})") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise WeightError(f"{source.name} is refused: expected named tensors and nothing else")
    temporary = target.with_name(f".{target.name}.tmp")
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
    note = {"source_sha256": source_sha256, "sha256": file_sha256(temporary)}
    temporary.replace(target)
    write_text_whole(_note_path(target), json.dumps(note))


def is_conversion_of(target: Path, source_sha256: str, digests: RememberedDigests) -> bool:
    """Whether `target` is, byte for byte, what `convert_pickle` once made of the file with this hash."""
    if not target.is_file() or not _note_path(target).is_file():
        return False
    note = read_json_object(_note_path(target))
    return note.get("source_sha256") == source_sha256 and note.get("sha256") == digests.sha256(target)


def _note_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.converted.json")
