"""What of a bundle is sent to the hub, and the sending of it, in one commit."""

import re
from dataclasses import dataclass
from pathlib import Path

from nerve_export.push.card import card, not_passed_on
from nerve_runtime.bundle.hub import MAIN, HubAddress, UnreachableError, hub_api, hub_errors, without_engines
from nerve_runtime.bundle.manifest import MANIFEST_NAME, load_manifest, manifest_bytes, verify_bundle
from nerve_runtime.errors import UsageError

CARD_NAME = "README.md"
BRANCH = re.compile(r"(?!.*(\.\.|//|/\.|\.lock(/|$)))\w[\w./-]*(?<![./])", re.ASCII)
"""Git's rules for names, of the characters that an address takes."""


@dataclass(frozen=True, slots=True)
class Push:
    """A verified bundle, ready to be sent.

    Attributes:
        bundle: its folder.
        address: where to, with the branch as revision.
        files: paths in the bundle that are sent as they are, with their sizes in bytes.
        engines: paths that stay here.
        manifest: content of manifest.json, without engines.
        card: content of README.md.
        warnings: sentences about licences.
    """

    bundle: Path
    address: HubAddress
    files: dict[str, int]
    engines: tuple[str, ...]
    manifest: bytes
    card: str
    warnings: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """All that is sent."""
        return sum(self.files.values()) + len(self.manifest) + len(self.card.encode())


def plan_push(bundle: Path, target: str, branch: str | None, *, allow_random: bool) -> Push:
    """Verify a bundle and write its card; asks nobody.

    Args:
        bundle: its folder.
        target: hf://owner/name.
        branch: that is committed to; None for main.
        allow_random: take a bundle with random weights.

    Raises:
        UsageError: the target is no address or names a revision, the branch is none, or the weights are random.
        BundleError: a file is not what the manifest says.
    """
    address = HubAddress.parse(target)
    if address is None or address.revision is not None:
        raise UsageError(f"the target is {target}, expected hf://owner/name; name a branch with --revision")
    branch = MAIN if branch is None else branch
    if not BRANCH.fullmatch(branch):
        raise UsageError(
            f"--revision is {branch!r}, expected the name of a branch: letters of ASCII, digits and . _ - /, without '..' "
            "or '.lock', and no '.' or '/' at an end of a part"
        )
    manifest = load_manifest(bundle)
    if manifest.random_weights and not allow_random:
        raise UsageError(
            f"{bundle} has random weights (seed {manifest.random_seed}), so its labels mean nothing; build it with real "
            "ones, or send it with --allow-random: its card says so"
        )
    verify_bundle(bundle, manifest, engines=False)
    kept = without_engines(manifest)
    if CARD_NAME in kept.files:
        raise UsageError(
            f"{bundle} lists a file {CARD_NAME}, which is the card's name on the hub; build the bundle again"
        )
    return Push(
        bundle,
        HubAddress(address.repository, branch),
        {path: record.bytes for path, record in kept.files.items()},
        tuple(sorted(set(manifest.files) - set(kept.files))),
        manifest_bytes(kept),
        card(bundle, kept, address.repository, branch),
        not_passed_on(manifest),
    )


def send(push: Push, *, private: bool, message: str) -> HubAddress:
    """Make the repository and the branch where they are not there, and commit all of it at once.

    Args:
        push: what is sent.
        private: make the repository private; one that is public already is refused.
        message: of the commit.

    Returns:
        The address with the new commit.

    Raises:
        UsageError: `private`, and the repository is public.
        ResourceError: no network, or no right to write there.
        CompatibilityError: huggingface_hub is not installed.
    """
    api = hub_api("nerve-build push")
    from huggingface_hub import CommitOperationAdd

    name, branch = push.address.repository, push.address.revision
    with hub_errors(push.address):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UsageError(f"{name} is public already, and --private does not change that; do it in its settings")
        if branch not in (None, MAIN):
            api.create_branch(name, branch=str(branch), exist_ok=True)
        contents: dict[str, Path | bytes] = {path: push.bundle / path for path in push.files}
        contents |= {MANIFEST_NAME: push.manifest, CARD_NAME: push.card.encode()}
        additions = [CommitOperationAdd(path, content) for path, content in contents.items()]
        try:
            commit = api.create_commit(name, additions, commit_message=message, revision=branch)
        except RuntimeError as error:  # what the client makes of any fault while it sends a large file
            raise UnreachableError(f"{push.address}: {error} Check the network, then try again") from error
    return HubAddress(name, commit.oid)
