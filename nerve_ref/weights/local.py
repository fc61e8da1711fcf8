"""What a folder or file must hold to serve as one role: names, formats, classes; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from nerve_ref.weights.configs.published import DINO_TYPES
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.formats import CONVERT, PICKLED, check_config, check_safetensors

ADVICE = {
    **dict.fromkeys(("unet", "text_encoder", "scheduler"), "give a local pipeline or checkpoint with --sd PATH"),
    **{role: f"give a local folder or file with --{role} PATH" for role in ("clip", "vae", "dinov2")},
    "tokenizer": "give a tokenizer.json with --tokenizer PATH",
}
"""What a user can do where a role cannot be had."""
_CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer.json"}
"""Roles without weights, and the file that they are."""
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
"""How diffusers calls its weights; those of transformers are called "model"."""
_CLASSES = {
    "clip": ("model_type", ("clip",)),
    "text_encoder": ("model_type", ("clip_text_model",)),
    "dinov2": ("model_type", DINO_TYPES),
    "unet": ("_class_name", ("UNet2DConditionModel",)),
    "vae": ("_class_name", ("AutoencoderKL", "AutoencoderTiny")),
}
_CHECKPOINT_PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders."),
}


PIPELINE_ROLES = ("unet", "vae", "text_encoder", "scheduler")
"""The folders of a diffusion pipeline that are read."""
TOKENIZER_FILES = ("special_tokens_map.json", "vocab.json")
"""What of a pipeline's tokenizer says which ids the empty prompt has."""


def role_file_names(role: str) -> tuple[str, ...]:
    """Names of the files of a role on the hub: its configuration, then its weights in one safetensors file, if any."""
    if role in _CONFIGS:
        return (_CONFIGS[role],)
    return "config.json", f"{_STEMS.get(role, 'model')}.safetensors"


@dataclass(frozen=True, slots=True)
class RoleFiles:
    """The files of one role that will be opened.

    Attributes:
        configs: JSON files.
        weights: safetensors files: one, or all shards.
    """

    configs: tuple[Path, ...]
    weights: tuple[Path, ...]

    def all(self) -> tuple[Path, ...]:
        """Configurations, then weights."""
        return (*self.configs, *self.weights)


def role_files(role: str, path: Path) -> RoleFiles:
    """The files of a role in a folder of the hub's layout, or a single file; every one checked before anything opens it.

    Raises:
        WeightError: something is missing, of another kind, refused or damaged.
    """
    if path.is_dir():
        return _folder_files(role, path)
    if not path.is_file():
        raise WeightError(f"no {role} at {path}: there is no such file or folder; {ADVICE[role]}")
    if role in _CONFIGS:
        check_config(path)
        return RoleFiles((path,), ())
    check_safetensors(path)
    return RoleFiles((), (path,))


def _folder_files(role: str, folder: Path) -> RoleFiles:
    names = role_file_names(role)
    config, single = folder / names[0], folder / names[-1]
    if not config.is_file():
        raise WeightError(f"no {role} at {folder}: it has no {config.name}; give a folder with {' and '.join(names)}")
    content = check_config(config)
    if role in _CONFIGS:
        return RoleFiles((config,), ())
    key, classes = _CLASSES[role]
    if content.get(key) not in classes:
        raise WeightError(
            f"{config} describes a {content.get(key)!r}, expected {' or '.join(classes)}; give the folder of the {role}"
        )
    index = single.with_name(f"{single.name}.index.json")
    if single.is_file():
        check_safetensors(single)
        return RoleFiles((config,), (single,))
    if index.is_file():
        return RoleFiles((config, index), _checked_shards(index))
    raise _without_weights(role, single)


def _without_weights(role: str, expected: Path) -> WeightError:
    folder = expected.parent
    if expected.is_symlink():
        return WeightError(f"{expected} is a link to a file that is not there; fetch the {role} again")
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        return WeightError(
            f"{folder} has {', '.join(others)} for the {role}, expected {expected.name}; rename what is meant"
        )
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLED):
        return WeightError(
            f"{folder} holds the {role} only as {', '.join(pickles)}, which is refused: such a file can run code when "
            f"it is opened; {CONVERT}"
        )
    return WeightError(
        f"no {role} at {folder}: it has no {expected.name}; give a folder with config.json and this file"
    )


def _checked_shards(index: Path) -> tuple[Path, ...]:
    """All shards of an index: plain names beside it, each sound, together holding exactly the tensors it lists."""
    listed = check_config(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise WeightError(f"{index} has no weight_map from tensors to files; fetch it again from where it came")
    held: dict[str, str] = {}
    shards = sorted(set(listed.values()))
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightError(f"{index} names {name!r}, expected a safetensors file beside it; fetch it again")
        if not (index.parent / name).is_file():
            raise WeightError(f"{index.parent} lacks the shard {name} of {index.name}; fetch it from where it came")
        held |= dict.fromkeys(check_safetensors(index.parent / name), name)
    if held != listed:
        wrong = sorted(held.items() ^ listed.items())[0][0]
        raise WeightError(f"{index} and its shards disagree about tensor {wrong!r}; fetch all of them again")
    return tuple(index.parent / name for name in shards)


def checkpoint_roles(path: Path) -> tuple[str, ...]:
    """Which roles a single file of Stable Diffusion serves, by the names of its tensors.

    Raises:
        WeightError: it is no safetensors file, or serves none.
    """
    names = check_safetensors(path)
    roles = tuple(
        role for role, prefixes in _CHECKPOINT_PREFIXES.items() if any(name.startswith(prefixes) for name in names)
    )
    if not roles and any(name.startswith("up_blocks.") for name in names) and "conv_in.weight" in names:
        roles = ("unet",)
    if not roles:
        raise WeightError(
            f"{path} holds neither a Stable Diffusion checkpoint nor a UNet (its first tensor is "
            f"{next(iter(names), None)!r}); give a pipeline's folder or its single-file checkpoint"
        )
    return roles
