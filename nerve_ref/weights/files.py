"""Where the weights of a variant come from: local folders and files, or the hub as the lock pins it; needs no torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nerve_ref.weights.architectures import (
    TINY,
    Backbones,
    is_dino,
    is_own_clip,
    network_config,
    packaged_tiny,
    vae_network,
)
from nerve_ref.weights.configs.own import AnyNetwork, Network
from nerve_ref.weights.digests import RememberedDigests, file_sha256
from nerve_ref.weights.download import WeightFolders, WeightStore, begun_bytes, fetch, refuse_full_disk
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.formats import PICKLED, safetensors_name
from nerve_ref.weights.hub import Hub
from nerve_ref.weights.local import ADVICE, checkpoint_roles, role_files
from nerve_ref.weights.lock import PACKAGED_LOCK, expected_pins

TOKENIZER_NETWORK = "clip-tokenizer"
"""All of OpenAI's CLIPs read the same byte pairs, so one tokenizer.json serves them."""
CLIP_TOKENS = 49408
"""Token ids of OpenAI's CLIPs."""
PACKAGED_ROLES = ("clip", "unet", "vae", "scheduler")
TINY_LICENCE = "Apache-2.0"


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
        lock: a lock file in place of the packaged one.
    """

    clip: Path | None = None
    sd: Path | None = None
    vae: Path | None = None
    tokenizer: Path | None = None
    offline: bool = False
    locked: bool = False
    dinov2: Path | None = None
    lock: Path | None = None


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
class HubNetwork:
    """A network that the hub serves, and what of it lies on this machine.

    Attributes:
        name: its name in the lock.
        repository: "owner/name" of the mirror that a build would use.
        total_bytes: of all files that are needed, as far as the lock knows.
        missing_bytes: of those that are not here.
        is_here: whether all files are here; their hashes are not looked at.
        begun_bytes: of the missing ones, what an interrupted download left.
        twice_bytes: of the largest pickle that is missing, which for a moment lies there as safetensors as well.
    """

    name: str
    repository: str
    total_bytes: int
    missing_bytes: int
    is_here: bool
    begun_bytes: int = 0
    twice_bytes: int = 0


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


def resolve_weights(
    backbones: Backbones,
    choice: WeightChoice,
    progress: Callable[[str], None],
    *,
    hub: Hub | None,
    folders: WeightFolders | None = None,
) -> ResolvedWeights:
    """Find, fetch where needed, and check all files of a variant. The second time it takes milliseconds.

    Args:
        backbones: which networks.
        choice: what the user gave.
        progress: gets one line at a time: what is downloaded and its size, warnings.
        hub: asked for what is not here yet; None where nothing may be asked.
        folders: those of this user, and the lock of `choice`, by default.

    Raises:
        WeightError: a file is missing, withdrawn, cut off, swapped or refused; says which and what to do.
    """
    _refuse_unused(backbones, choice)
    if TINY in (backbones.clip, backbones.affinity):
        return _packaged(("clip",) if is_own_clip(backbones) else PACKAGED_ROLES)
    store = WeightStore(hub, _folders(choice, folders), progress, offline=choice.offline, locked=choice.locked)
    needed = _needed(backbones, choice)
    _expect_downloads(needed, store)
    files: dict[str, Path] = {}
    records: list[WeightFile] = []
    for network, paths in needed:
        for role, path in paths.items():
            if path is not None:
                records += _local_records(role, path, network, store)
                # Not resolved: files of the hub's own cache are links whose targets have no suffix.
                files[role] = path.absolute()
        if remote := [role for role, path in paths.items() if path is None]:
            fetched = _from_hub(network, remote, store)
            files |= fetched.files
            records += fetched.records
    return ResolvedWeights(files, tuple(records))


def hub_networks(
    backbones: Backbones, choice: WeightChoice, *, folders: WeightFolders | None = None
) -> tuple[HubNetwork, ...]:
    """The networks that a build would take from the hub or from earlier downloads; none of the tiny models.

    Nothing is downloaded or hashed.
    """
    if TINY in (backbones.clip, backbones.affinity):
        return ()
    store = WeightStore(None, _folders(choice, folders), lambda _line: None, offline=True, locked=choice.locked)
    return _hub_networks(_needed(backbones, choice), store)


def _folders(choice: WeightChoice, folders: WeightFolders | None) -> WeightFolders:
    return folders or WeightFolders(packaged_lock=choice.lock or PACKAGED_LOCK)


def _hub_networks(
    needed: Iterable[tuple[AnyNetwork, Mapping[str, Path | None]]], store: WeightStore
) -> tuple[HubNetwork, ...]:
    remote = {network: [role for role, path in paths.items() if path is None] for network, paths in needed}
    return tuple(_hub_network(network, roles, store) for network, roles in remote.items() if roles)


def _expect_downloads(needed: Iterable[tuple[AnyNetwork, Mapping[str, Path | None]]], store: WeightStore) -> None:
    """Compare the disk with all that will be fetched before the first byte comes, and tell the hub how much that is."""
    networks = _hub_networks(needed, store)
    missing, here = (sum(getattr(network, name) for network in networks) for name in ("missing_bytes", "begun_bytes"))
    if store.offline or store.hub is None or not missing:
        return
    twice = max(network.twice_bytes for network in networks)
    refuse_full_disk("what has to be downloaded", missing - here + twice, store.folders.downloads)
    store.hub.expect(missing, here)


def weight_digests(weights: ResolvedWeights, *, folders: WeightFolders | None = None) -> dict[str, str]:
    """SHA-256 of every file that decides the networks, by "role/file name"; large files are hashed only once.

    Raises:
        WeightError: a file is gone or damaged since it was resolved.
    """
    digests = RememberedDigests((folders or WeightFolders()).digests)
    return {
        f"{role}/{path.name}": digests.sha256(path)
        for role, folder_or_file in sorted(weights.files.items())
        for path in role_files(role, folder_or_file).all()
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
    """A path that would not be read is a mistake; ignoring it would hide it."""
    provider = () if is_own_clip(backbones) else ("dinov2",) if is_dino(backbones) else ("sd", "vae")
    used = {"clip", "tokenizer", *provider}
    if TINY in (backbones.clip, backbones.affinity):
        used = set()
    for name in ("clip", "tokenizer", "sd", "vae", "dinov2"):
        if name not in used and getattr(choice, name) is not None:
            raise WeightError(
                f"--{name} is given, but {backbones.clip} with {backbones.affinity} does not use it; leave it out"
            )


def _packaged(roles: tuple[str, ...]) -> ResolvedWeights:
    tiny = packaged_tiny()
    files = {role: tiny / role for role in roles}
    records = tuple(
        WeightFile(role, f"packaged:models/tiny/{role}/{path.name}", "packaged", file_sha256(path), TINY_LICENCE)
        for role, folder in files.items()
        for path in role_files(role, folder).weights
    )
    return ResolvedWeights({**files, "tokenizer": tiny / "clip" / "tokenizer.json"}, records)


def _needed(backbones: Backbones, choice: WeightChoice) -> list[tuple[AnyNetwork, dict[str, Path | None]]]:
    """The networks with the local path of each of their roles, None where the hub serves it.

    Raises:
        WeightError: a CLIP that brings its configuration has other token ids than OpenAI's, and no tokenizer was given.
    """
    tokenizer = _tokenizer_path(choice)
    if tokenizer is None and isinstance(backbones.clip, Network):
        known = network_config(backbones.clip, "clip")["text_config"]["vocab_size"]
        if known != CLIP_TOKENS:
            raise WeightError(
                f"{backbones.clip} knows {known} token ids, the tokenizer of OpenAI's CLIPs has {CLIP_TOKENS}; "
                f"{ADVICE['tokenizer']}"
            )
    needed: list[tuple[AnyNetwork, dict[str, Path | None]]] = [
        (backbones.clip, {"clip": choice.clip}),
        (TOKENIZER_NETWORK, {"tokenizer": tokenizer}),
    ]
    if is_own_clip(backbones):
        return needed
    if is_dino(backbones):
        return [*needed, (backbones.affinity, {"dinov2": choice.dinov2})]
    other_vae = choice.vae is not None or backbones.vae is not None
    roles = ("unet", "text_encoder", "scheduler", *(() if other_vae else ("vae",)))
    needed.append((backbones.affinity, _diffusion_paths(choice.sd, roles)))
    if other_vae:
        needed.append((vae_network(backbones), {"vae": choice.vae}))
    return needed


def _tokenizer_path(choice: WeightChoice) -> Path | None:
    if choice.tokenizer is not None:
        return choice.tokenizer / "tokenizer.json" if choice.tokenizer.is_dir() else choice.tokenizer
    beside_clip = choice.clip / "tokenizer.json" if choice.clip is not None else None
    return beside_clip if beside_clip is not None and beside_clip.is_file() else None


def _diffusion_paths(given: Path | None, roles: tuple[str, ...]) -> dict[str, Path | None]:
    """Path of each role of Stable Diffusion; with a single file the noise schedule is that of the architecture."""
    if given is None:
        return dict.fromkeys(roles)
    if given.is_dir():
        return {role: given / role for role in roles}
    served = checkpoint_roles(given)
    needed = [role for role in roles if role != "scheduler"]
    missing = [role for role in needed if role not in served]
    if missing:
        flag = "--vae PATH" if missing == ["vae"] else "--sd with the folder of a whole pipeline"
        raise WeightError(f"{given} holds {', '.join(served)}, but no {', no '.join(missing)}; give {flag}")
    return dict.fromkeys(needed, given)


def _local_records(role: str, path: Path, network: AnyNetwork, store: WeightStore) -> list[WeightFile]:
    """Check the files of a role and, with --locked, their hashes; one record per weight file."""
    files = role_files(role, path)
    if isinstance(network, Network) and network.repository is None:
        licence, pinned = network.licence, set()
    else:
        entry = store.entry(network)
        licence, pinned = entry.licence, {pin.sha256 for mirror in entry.mirrors for pin in mirror.files.values()}
    digests = {file: store.digests.sha256(file) for file in files.all()}
    unknown = [file for file in files.all() if digests[file] not in pinned]
    if store.locked and unknown:
        raise WeightError(
            f"--locked refuses {unknown[0]}: its sha256 {digests[unknown[0]]} is none that the lock pins for {network}; "
            "leave --locked out, or leave the path out to fetch the pinned file"
        )
    foreign = f"not known, a local file; {network} itself: {licence}"
    return [
        WeightFile(role, f"local:{file.name}", "local", digests[file], foreign if file in unknown else licence)
        for file in files.weights
    ]


def _hub_network(network: AnyNetwork, roles: list[str], store: WeightStore) -> HubNetwork:
    """The mirror of which most is here, the first of those that are alike."""
    entry, prefixes = store.entry(network), tuple(_prefixes(network, roles, store).values())
    found: list[tuple[int, HubNetwork]] = []
    for mirror in entry.mirrors:
        pins = expected_pins(entry, mirror, tuple(path for path in mirror.files if path.startswith(prefixes)))
        folder = store.folder(mirror)
        missing = {path: pin for path, pin in pins.items() if not (folder / safetensors_name(path)).is_file()}
        total_bytes, missing_bytes = (sum(pin.bytes or 0 for pin in some.values()) for some in (pins, missing))
        begun = sum(min(begun_bytes(folder / path), pin.bytes or 0) for path, pin in missing.items())
        twice = max((pin.bytes or 0 for path, pin in missing.items() if path.endswith(PICKLED)), default=0)
        known = HubNetwork(str(network), mirror.repository, total_bytes, missing_bytes, not missing, begun, twice)
        found.append((len(missing), known))
    return min(found, key=lambda counted: counted[0])[1]


def _prefixes(network: AnyNetwork, roles: list[str], store: WeightStore) -> dict[str, str]:
    """What the paths of each role begin with; a repository has a folder for each, or one role at its top."""
    paths = {path for mirror in store.entry(network).mirrors for path in mirror.files}
    return {role: f"{role}/" if any(path.startswith(f"{role}/") for path in paths) else "" for role in roles}


def _from_hub(network: AnyNetwork, roles: list[str], store: WeightStore) -> ResolvedWeights:
    """Roles of one network, all from the same mirror."""
    prefixes = _prefixes(network, roles, store)
    mirror = fetch(network, tuple(prefixes.values()), ADVICE[roles[0]], store)
    folder, licence = store.folder(mirror), store.entry(network).licence
    served = {folder / safetensors_name(path): (path, str(pin.sha256)) for path, pin in mirror.files.items()}
    files = {role: folder / prefix for role, prefix in prefixes.items()}
    if "tokenizer" in files:
        files["tokenizer"] /= "tokenizer.json"
    records = tuple(
        WeightFile(role, f"hub:{mirror.repository}@{mirror.revision}:{path}", str(mirror.revision), sha256, licence)
        for role in roles
        for path, sha256 in (served[file] for file in role_files(role, files[role]).weights)
    )
    return ResolvedWeights(files, records)
