"""Fetching from a fake hub: mirrors in order, pins, offline, and every way in which a hub can fail (row 44)."""

import json
from pathlib import Path

import pytest

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.files import WeightChoice, weight_digests
from nerve_ref.weights.lock import fill_lock
from tests.unit.nerve_ref.fake_hub import COMMIT, OTHER_COMMIT, make_role, sha256
from tests.unit.nerve_ref.weight_world import DINO, SD, SD_TAESD, World

OFFLINE = WeightChoice(offline=True)
LOCKED = WeightChoice(locked=True)
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_everything_that_is_needed_and_nothing_else_is_fetched_from_the_first_mirror(world: World) -> None:
    (world.folder("first", "stable-diffusion-2-1-base") / "unneeded.ckpt").write_bytes(b"large")
    resolved = world.resolve()
    assert set(resolved.files) == {"clip", "tokenizer", "unet", "vae", "text_encoder", "scheduler"}
    assert resolved.files["unet"] == world.downloaded("stable-diffusion-2-1-base", "unet")
    assert resolved.files["tokenizer"].name == "tokenizer.json"
    assert "unneeded.ckpt" not in world.hub.asked
    assert any(
        "downloading stable-diffusion-2-1-base from first/" in line and "GB" in line for line in world.progress_lines
    )
    assert not [path for path in world.folders.downloads.rglob("*") if path.is_symlink()]
    assert not list(world.folders.downloads.rglob("*.part"))


def test_records_name_source_commit_hash_and_licence_of_each_weight_file(world: World) -> None:
    records = {record.role: record for record in world.resolve().records}
    assert set(records) == {"clip", "unet", "vae", "text_encoder"}
    assert records["unet"].source == f"hub:first/stable-diffusion-2-1-base@{COMMIT}:{UNET}"
    assert records["unet"].revision == COMMIT
    assert records["unet"].sha256 == sha256(world.folder("first", "stable-diffusion-2-1-base") / UNET)
    assert (records["unet"].licence, records["clip"].licence) == ("openrail++", "MIT")


def test_the_second_time_the_hub_is_not_asked(world: World) -> None:
    first = world.resolve()
    world.hub.asked.clear()
    assert world.resolve() == first
    assert world.resolve(choice=OFFLINE) == first
    assert world.hub.asked == []
    assert weight_digests(first, folders=world.folders)["unet/diffusion_pytorch_model.safetensors"] == sha256(
        world.folder("first", "stable-diffusion-2-1-base") / UNET
    )


def test_another_autoencoder_takes_the_place_of_stable_diffusions_own(world: World) -> None:
    resolved = world.resolve(SD_TAESD)
    assert resolved.files["vae"] == world.downloaded("taesd", "")
    assert not world.downloaded("stable-diffusion-2-1-base", "vae").exists()


def test_dinov2_needs_no_stable_diffusion(world: World) -> None:
    assert set(world.resolve(DINO).files) == {"clip", "tokenizer", "dinov2"}


def test_a_withdrawn_repository_is_warned_of_and_the_next_mirror_serves(world: World) -> None:
    world.hub.gone.add("first/stable-diffusion-2-1-base")
    resolved = world.resolve()
    assert resolved.files["unet"] == world.downloaded("stable-diffusion-2-1-base", "unet", "second")
    assert (
        "warning: stable-diffusion-2-1-base: first/stable-diffusion-2-1-base: it is gone or private (the hub answered 401 or 404)"
        in world.progress_lines
    )


def test_when_no_mirror_serves_all_are_named_with_what_to_do(world: World) -> None:
    world.hub.gone |= {"first/stable-diffusion-2-1-base", "second/stable-diffusion-2-1-base"}
    with pytest.raises(
        WeightError,
        match=r"no mirror serves stable-diffusion-2-1-base \(first/stable-diffusion-2-1-base: it is gone .*; "
        r"second/stable-diffusion-2-1-base: it is gone .*\); give a local pipeline or checkpoint with --sd PATH",
    ):
        world.resolve()


def test_a_hub_that_is_down_is_named(world: World) -> None:
    world.hub.down = True
    with pytest.raises(
        WeightError, match=r"no mirror serves clip-vit-base-patch16 .*could not be reached.*--clip PATH"
    ):
        world.resolve()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("cut_off", r"came with \d+ bytes, expected \d+: it was cut off on the way"),
        ("swapped", r"is not the file that is pinned: got sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"),
    ],
)
def test_row_44_a_file_that_arrives_damaged_is_refused_and_never_kept(world: World, fault: str, reason: str) -> None:
    getattr(world.hub, fault).add(UNET)
    with pytest.raises(WeightError, match=rf"first/.*{UNET} {reason}.*second/.*{UNET} {reason}"):
        world.resolve()
    assert not world.downloaded("stable-diffusion-2-1-base", UNET).exists()
    assert not list(world.folders.downloads.rglob("unet/*.safetensors"))
    world.hub.cut_off.clear()
    world.hub.swapped.clear()
    assert world.resolve().files["unet"].is_dir()


@pytest.mark.parametrize("path", [UNET, "unet/config.json"])
def test_row_44_a_file_that_changed_upstream_at_the_same_commit_is_refused(world: World, path: str) -> None:
    for owner in ("first", "second"):
        changed = world.folder(owner, "stable-diffusion-2-1-base") / path
        changed.write_bytes(changed.read_bytes()[:-1] + b" ")
    with pytest.raises(WeightError, match=rf"{path} is not the file that is pinned: got sha256.*changed upstream"):
        world.resolve()


def test_row_44_a_mirror_with_other_bytes_than_the_first_one_pins_is_refused(world: World) -> None:
    lock = json.loads(world.folders.packaged_lock.read_text())
    second = lock["networks"]["stable-diffusion-2-1-base"]["mirrors"][1]
    second["files"][UNET] = {"sha256": None, "bytes": None}
    world.folders.packaged_lock.write_text(json.dumps(lock))
    make_role(world.folder("second", "stable-diffusion-2-1-base") / "unet", "unet", seed=9)
    world.hub.gone.add("first/stable-diffusion-2-1-base")
    with pytest.raises(WeightError, match=rf"second/.*{UNET} is not the file that is pinned"):
        world.resolve()


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:39]])
def test_row_44_locked_refuses_a_revision_that_is_no_commit(world: World, revision: str | None) -> None:
    world.lock(revision)
    with pytest.raises(
        WeightError, match=rf"--locked needs a commit of 40 hex digits, the lock has revision {revision!r}; "
    ):
        world.resolve(choice=LOCKED)
    assert world.hub.asked == []


def test_row_44_locked_refuses_a_file_without_a_hash(world: World) -> None:
    world.lock(pinned=False)
    with pytest.raises(
        WeightError, match=r"--locked needs a sha256 of config\.json, the lock has none; .*`nerve-build lock`"
    ):
        world.resolve(choice=LOCKED)
    assert world.hub.asked == []


def test_locked_takes_what_is_pinned(world: World) -> None:
    assert world.resolve(choice=LOCKED) == world.resolve()


def test_row_44_what_was_pinned_at_first_use_is_kept_and_later_changes_are_refused(world: World) -> None:
    world.lock("main", pinned=False, owners=("first",))
    first = world.resolve(DINO)
    user = json.loads(world.folders.user_lock.read_text())["networks"]["dinov2-base"]["mirrors"][0]
    model = world.folder("first", "dinov2-base") / "model.safetensors"
    assert user["revision"] == COMMIT
    assert user["files"]["model.safetensors"] == {"sha256": sha256(model), "bytes": model.stat().st_size}

    make_role(world.folder("first", "dinov2-base", OTHER_COMMIT), "dinov2", seed=3)
    world.hub.branches["first/dinov2-base"] = OTHER_COMMIT  # the branch moved: the pinned commit stays
    assert world.resolve(DINO) == first

    world.downloaded("dinov2-base", "model.safetensors").unlink()
    make_role(world.folder("first", "dinov2-base"), "dinov2", seed=3)  # the history was rewritten: refused
    with pytest.raises(WeightError, match=r"model\.safetensors is not the file that is pinned"):
        world.resolve(DINO)


def test_a_user_lock_does_not_count_when_locked(world: World) -> None:
    world.lock("main", pinned=False, owners=("first",))
    world.resolve(DINO)
    with pytest.raises(WeightError, match="--locked needs a commit"):
        world.resolve(DINO, LOCKED)


def test_offline_names_what_was_not_downloaded_before(world: World) -> None:
    with pytest.raises(WeightError, match=r"clip-vit-base-patch16 .*not downloaded before, .*--offline.*--clip PATH"):
        world.resolve(choice=OFFLINE)
    assert world.hub.asked == []


def test_a_download_that_was_damaged_since_is_fetched_again_but_not_offline(world: World) -> None:
    resolved = world.resolve()
    damaged = resolved.files["unet"] / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    with pytest.raises(WeightError, match="not downloaded before"):
        world.resolve(choice=OFFLINE)
    assert any("is no longer what was downloaded" in line for line in world.progress_lines)
    assert world.resolve() == resolved
    assert sha256(damaged) == sha256(world.folder("first", "stable-diffusion-2-1-base") / UNET)


def test_a_repository_that_lost_a_file_is_named(world: World) -> None:
    for owner in ("first", "second"):
        (world.folder(owner, "stable-diffusion-2-1-base") / UNET).unlink()
    with pytest.raises(WeightError, match=rf"second/.*: it no longer has the file {UNET}"):
        world.resolve()


def test_a_lock_is_completed_for_maintainers_without_touching_pins(world: World) -> None:
    world.lock("main", pinned=False)
    world.hub.gone.add("second/taesd")
    written = world.root / "new.json"
    left = fill_lock(written, world.progress_lines.append, hub=world.hub, source=world.folders.packaged_lock)
    assert left == ("taesd second/taesd config.json", "taesd second/taesd diffusion_pytorch_model.safetensors")
    world.hub.gone.clear()
    assert fill_lock(written, world.progress_lines.append, hub=world.hub, source=written) == ()
    world.lock()
    assert json.loads(written.read_text()) == json.loads(world.folders.packaged_lock.read_text())
    before = written.read_bytes()
    make_role(world.folder("first", "dinov2-base"), "dinov2", seed=3)
    fill_lock(written, world.progress_lines.append, hub=world.hub, source=written)
    assert written.read_bytes() == before
    assert any(
        "warning: dinov2-base: first/dinov2-base: model.safetensors is now" in line for line in world.progress_lines
    )


def test_downloads_that_cannot_be_kept_say_where(world: World) -> None:
    world.folders.downloads.write_text("a file where the folder should be")
    with pytest.raises(WeightError, match=r"cannot keep clip-vit-base-patch16 in .*weights: File exists; free space"):
        world.resolve(SD)
