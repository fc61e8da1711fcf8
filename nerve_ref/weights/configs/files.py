"""Configurations of networks that a preset brings along, out of a local folder or the hub; imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nerve_ref.weights.configs.own import Network
from nerve_ref.weights.download import WeightStore, fetch, repository_files
from nerve_ref.weights.errors import MirrorError, WeightError
from nerve_ref.weights.formats import check_config
from nerve_ref.weights.local import PIPELINE_ROLES, TOKENIZER_FILES, role_file_names

Part: TypeAlias = Literal["clip", "affinity", "vae"]
"""What a network does in the method; affinity comes from a diffusion pipeline or a DINO."""
TOP_ROLE: Mapping[Part, str] = {"clip": "clip", "affinity": "dinov2", "vae": "vae"}
"""The role of a network whose config.json lies at the top of its folder."""


def folder_configs(part: Part, folder: Path) -> dict[str, dict[str, Any]]:
    """The configurations in a local folder of the hub's layout, by role.

    Raises:
        WeightError: one is missing or no JSON object.
    """
    if part != "affinity" or not (folder / "unet").is_dir():
        return {TOP_ROLE[part]: check_config(folder / "config.json")}
    roles = [role for role in PIPELINE_ROLES if (folder / role).is_dir()]
    configs = {role: check_config(folder / role / role_file_names(role)[0]) for role in roles}
    if (folder / "tokenizer").is_dir():
        configs["empty_prompt"] = _empty_prompt(
            *(check_config(folder / "tokenizer" / name) for name in TOKENIZER_FILES)
        )
    return configs


def hub_configs(part: Part, repository: str, revision: str, store: WeightStore) -> dict[str, dict[str, Any]]:
    """The configurations of a repository at a commit, by role; fetched, a few kB, where they are not here yet.

    Raises:
        WeightError: the hub does not serve them, or may not be asked.
    """
    pipeline = Network(repository, (("unet", "{}"),), repository, revision)
    single = Network(repository, ((TOP_ROLE[part], "{}"),), repository, revision)
    folder = store.folder(store.entry(single).mirrors[0])
    is_pipeline = part == "affinity" and (
        (folder / "unet").is_dir() or _lists_unet(repository, revision, folder, store)
    )
    network = pipeline if is_pipeline else single
    paths = tuple(path for path in repository_files(network) if path.endswith(".json"))
    advice = "give its configuration in the preset as a table named config"
    return folder_configs(part, store.folder(fetch(network, paths, advice, store)))


def _lists_unet(repository: str, revision: str, folder: Path, store: WeightStore) -> bool:
    if (folder / "config.json").is_file() or store.offline or store.hub is None:
        return False
    try:
        return "unet/config.json" in store.hub.files(repository, revision)[1]
    except MirrorError as error:
        raise WeightError(f"the configuration of {repository} cannot be had: {error}; give it in the preset") from error


def _empty_prompt(names: Mapping[str, Any], vocabulary: Mapping[Any, Any]) -> dict[str, int]:
    """Token ids of "" under a pipeline's own tokenizer: start, end, and padding to the full length."""
    tokens = {name: names.get(f"{token}_token") for name, token in (("start", "bos"), ("end", "eos"), ("pad", "pad"))}
    texts = {name: token["content"] if isinstance(token, Mapping) else token for name, token in tokens.items()}
    ids = {name: vocabulary[text] for name, text in texts.items() if text in vocabulary}
    if unknown := [name for name in texts if name not in ids]:
        raise WeightError(
            f"the pipeline's tokenizer names no {unknown[0]} token that its vocabulary has; give empty_prompt in the "
            "preset as { start = ID, end = ID, pad = ID }"
        )
    return ids
