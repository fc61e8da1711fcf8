"""Where the weights of a variant come from: local folders and files, or the hub as the lock pins it; needs no torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nerve_ref.weights.architectures import TINY, TINY_FOLDER, Backbones, is_dinov2
from nerve_ref.weights.download import (
    Fetched,
    WeightFolders,
    WeightStore,
    fetch,
    locked_network,
    open_store,
    user_folders,
)
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.hub import Hub, HuggingFaceHub
from nerve_ref.weights.local import RoleFiles, checkpoint_roles, role_files
from nerve_ref.weights.lock import LockedNetwork
from nerve_ref.weights.whole_files import RememberedDigests, file_sha256

TOKENIZER_NETWORK = "clip-tokenizer"
"""All of OpenAI's CLIPs read the same byte pairs, so one tokenizer.json serves them."""
LOCAL = "local"
PACKAGED = "packaged"
TINY_LICENCE = "Apache-2.0"
_ADVICE = {
    "clip": "give a local folder or file with --clip PATH",
    "tokenizer": "give a tokenizer.json with --tokenizer PATH",
    "unet": "give a local pipeline or checkpoint with --sd PATH",
    "text_encoder": "give a local pipeline or checkpoint with --sd PATH",
    "scheduler": "give a local pipeline with --sd PATH",
    "vae": "give a local folder or file with --vae PATH",
    "dinov2": "give a local folder or file with --dinov2 PATH",
}


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """What the flags say about weights; what is not given comes from the hub.

    Attributes:
        clip: a local folder, or a single safetensors file.
        sd: the folder of a diffusers pipeline, or a single safetensors checkpoint.
        vae: a folder or a single safetensors file of an AutoencoderKL or AutoencoderTiny, before all other places.
        tokenizer: a tokenizer.json, or a folder that has one.
        offline: never use the network, only local folders and what was downloaded before.
        locked: refuse what the packaged lock does not pin by a commit of 40 hex digits and by sha256.
        dinov2: a local folder, or a single safetensors file.
    """

    clip: Path | None = None
    sd: Path | None = None
    vae: Path | None = None
    tokenizer: Path | None = None
    offline: bool = False
    locked: bool = False
    dinov2: Path | None = None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Where one weight file came from; a line of the bundle's manifest.

    Attributes:
        role: "clip", "unet", "vae", "text_encoder" or "dinov2".
        source: "hub:owner/name@commit:path", "local:<file name>" or "packaged:<path>"; never a path of this machine.
        revision: the commit, "local" or "packaged".
        sha256: of the file as its source serves it (a pickle that was converted: of the pickle).
        licence: under which it may be used.
    """

    role: str
    source: str
    revision: str
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    """All files of a variant, checked and on this machine.

    Attributes:
        files: folder or single file by role: "clip", "tokenizer" (always a tokenizer.json), and either "unet",
            "vae", "text_encoder" and "scheduler" or "dinov2". A single-file checkpoint serves several roles and has no
            "scheduler"; the packaged tiny models have no "text_encoder".
        records: one per weight file.
    """

    files: Mapping[str, Path]
    records: tuple[WeightFile, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    role: str
    path: Path
    records: tuple[WeightFile, ...]


def resolve_weights(
    backbones: Backbones,
    choice: WeightChoice,
    progress: Callable[[str], None],
    *,
    hub: Hub | None = None,
    folders: WeightFolders | None = None,
) -> ResolvedWeights:
    """Find, fetch where needed, and check all files of a variant. The second time it takes milliseconds.

    Args:
        backbones: which networks.
        choice: what the user gave.
        progress: told one line at a time: what is downloaded and its size, warnings.
        hub: the public one by default.
        folders: those of this user by default.

    Raises:
        WeightError: a file is missing, withdrawn, cut off, swapped or refused; says which and what to do.
    """
    _refuse_unused(backbones, choice)
    if TINY in (backbones.clip, backbones.affinity):
        return _packaged()
    store = open_store(
        hub or HuggingFaceHub(), folders or user_folders(), progress, offline=choice.offline, locked=choice.locked
    )
    parts = [_clip(backbones, choice, store), _tokenizer(choice, store), *_affinity(backbones, choice, store)]
    if not is_dinov2(backbones):
        parts += _vae(backbones, choice, store)
    return ResolvedWeights(
        {part.role: part.path for part in parts}, tuple(record for part in parts for record in part.records)
    )


def weight_digests(weights: ResolvedWeights, *, folders: WeightFolders | None = None) -> dict[str, str]:
    """SHA-256 of every file that decides the networks, by "role/file name"; large files are hashed only once.

    Raises:
        WeightError: a file is gone or damaged since it was resolved.
    """
    digests = RememberedDigests((folders or user_folders()).digests)
    return {
        f"{role}/{path.name}": digests.sha256(path)
        for role, place in sorted(weights.files.items())
        for path in role_files(role, place).all()
    }


def licences_text(records: Iterable[WeightFile]) -> str:
    """The text of the bundle's licences.txt: where each weight file came from and what its licence asks."""
    lines = [
        f"{record.role}: {record.source}, revision {record.revision}, sha256 {record.sha256}\n"
        f"    licence: {record.licence}"
        for record in records
    ]
    if any("openrail" in record.licence for record in records):
        lines.append(
            "The openrail licences restrict what the weights may be used for. These restrictions travel with everything\n"
            "that is derived from the weights: with these graphs and with every engine built from them. Who passes a\n"
            "bundle on must pass the restrictions and a copy of the licence on with it."
        )
    return "\n\n".join(lines) + "\n"


def _refuse_unused(backbones: Backbones, choice: WeightChoice) -> None:
    """A path that would not be read is a mistake; saying nothing would hide it."""
    tiny, dinov2 = TINY in (backbones.clip, backbones.affinity), is_dinov2(backbones)
    unused = {
        "clip": tiny,
        "tokenizer": tiny,
        "sd": tiny or dinov2,
        "vae": tiny or dinov2,
        "dinov2": tiny or not dinov2,
    }
    for name, is_unused in unused.items():
        if is_unused and getattr(choice, name) is not None:
            raise WeightError(
                f"--{name} is given, but {backbones.clip} with {backbones.affinity} does not use it; leave it out"
            )


def _packaged() -> ResolvedWeights:
    if not (TINY_FOLDER / "unet" / "config.json").is_file():
        raise WeightError("the tiny models are not in this checkout; make them: python benchmarks/run.py train-tiny")
    files = {role: TINY_FOLDER / role for role in ("clip", "unet", "vae", "scheduler")}
    records = tuple(
        WeightFile(role, f"packaged:models/tiny/{role}/{path.name}", PACKAGED, file_sha256(path), TINY_LICENCE)
        for role, folder in files.items()
        for path in role_files(role, folder).weights
    )
    return ResolvedWeights({**files, "tokenizer": files["clip"] / "tokenizer.json"}, records)


def _clip(backbones: Backbones, choice: WeightChoice, store: WeightStore) -> _Part:
    if choice.clip is not None:
        return _local("clip", choice.clip, backbones.clip, store)
    return _from_hub(backbones.clip, ("clip",), store)[0]


def _tokenizer(choice: WeightChoice, store: WeightStore) -> _Part:
    if choice.tokenizer is not None:
        return _local_tokenizer(choice.tokenizer, store)
    if choice.clip is not None and (choice.clip / "tokenizer.json").is_file():
        return _local_tokenizer(choice.clip, store)
    part = _from_hub(TOKENIZER_NETWORK, ("tokenizer",), store)[0]
    return _Part("tokenizer", part.path / "tokenizer.json", ())


def _local_tokenizer(given: Path, store: WeightStore) -> _Part:
    path = given / "tokenizer.json" if given.is_dir() else given
    return _local("tokenizer", path, TOKENIZER_NETWORK, store)


def _affinity(backbones: Backbones, choice: WeightChoice, store: WeightStore) -> tuple[_Part, ...]:
    """The network of the affinity: DINOv2, or Stable Diffusion with its own autoencoder unless another is chosen."""
    network = backbones.affinity
    if is_dinov2(backbones):
        if choice.dinov2 is not None:
            return (_local("dinov2", choice.dinov2, network, store),)
        return _from_hub(network, ("dinov2",), store)
    own_vae = backbones.vae is None and choice.vae is None
    roles = ("unet", "text_encoder", "scheduler", *(("vae",) if own_vae else ()))
    if choice.sd is None:
        return _from_hub(network, roles, store)
    if choice.sd.is_dir():
        return tuple(_local(role, choice.sd / role, network, store) for role in roles)
    return _checkpoint(choice.sd, roles, network, store)


def _checkpoint(path: Path, roles: tuple[str, ...], network: str, store: WeightStore) -> tuple[_Part, ...]:
    """A single file that serves several roles; its noise schedule is that of the architecture."""
    served = checkpoint_roles(path)
    needed = tuple(role for role in roles if role != "scheduler")
    missing = [role for role in needed if role not in served]
    if missing:
        flag = "--vae PATH" if missing == ["vae"] else "--sd with the folder of a whole pipeline"
        raise WeightError(f"{path} holds {', '.join(served)}, but no {', no '.join(missing)}; give {flag}")
    return tuple(_local(role, path, network, store) for role in needed)


def _vae(backbones: Backbones, choice: WeightChoice, store: WeightStore) -> tuple[_Part, ...]:
    """The autoencoder, if it does not come with the rest of Stable Diffusion."""
    if choice.vae is not None:
        return (_local("vae", choice.vae, backbones.vae or backbones.affinity, store),)
    if backbones.vae is not None:
        return _from_hub(backbones.vae, ("vae",), store)
    return ()


def _local(role: str, path: Path, network: str, store: WeightStore) -> _Part:
    if not path.exists():
        raise WeightError(f"no {role} at {path}: there is no such file or folder; {_ADVICE[role]}")
    files = role_files(role, path)
    entry = locked_network(store.lock, network)
    pinned = {pin.sha256 for mirror in entry.mirrors for pin in mirror.files.values()}
    digests = {file: store.digests.sha256(file) for file in files.all()}
    if store.locked:
        _refuse_unknown(digests, pinned, network)
    records = tuple(
        WeightFile(
            role, f"local:{file.name}", LOCAL, digests[file], _local_licence(entry, network, digests[file], pinned)
        )
        for file in files.weights
    )
    # Not resolved: files of the hub's own cache are links whose targets have no suffix.
    return _Part(role, path.absolute(), records)


def _refuse_unknown(digests: Mapping[Path, str], pinned: set[str | None], network: str) -> None:
    for file, digest in digests.items():
        if digest not in pinned:
            raise WeightError(
                f"--locked refuses {file}: its sha256 {digest} is none that the lock pins for {network}; "
                "leave --locked out, or leave the path out to fetch the pinned file"
            )


def _local_licence(entry: LockedNetwork, network: str, digest: str, pinned: set[str | None]) -> str:
    if digest in pinned:
        return entry.licence
    return f"not known, a local file; {network} itself: {entry.licence}"


def _from_hub(network: str, roles: tuple[str, ...], store: WeightStore) -> tuple[_Part, ...]:
    """Roles of one network, all from the same mirror."""
    paths = {path for mirror in locked_network(store.lock, network).mirrors for path in mirror.files}
    prefixes = {role: f"{role}/" if any(path.startswith(f"{role}/") for path in paths) else "" for role in roles}
    fetched = fetch(network, lambda path: path.startswith(tuple(prefixes.values())), _ADVICE[roles[0]], store)
    return tuple(_fetched_part(role, prefix, fetched) for role, prefix in prefixes.items())


def _fetched_part(role: str, prefix: str, fetched: Fetched) -> _Part:
    files: RoleFiles = role_files(role, fetched.folder / prefix)
    sources = {file.here: file for file in fetched.files}
    records = tuple(
        WeightFile(
            role,
            f"hub:{fetched.repository}@{fetched.commit}:{sources[here].path}",
            fetched.commit,
            sources[here].sha256,
            fetched.licence,
        )
        for here in files.weights
    )
    return _Part(role, fetched.folder / prefix, records)
