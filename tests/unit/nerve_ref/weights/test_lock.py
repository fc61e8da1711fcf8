"""The lock file: what it must hold, how gaps are filled, and that ours is sound."""

import json
from pathlib import Path

import pytest

from nerve_export.weights.hub import HuggingFaceHub
from nerve_ref.weights.configs.published import CONFIGS
from nerve_ref.weights.errors import MirrorError, WeightError
from nerve_ref.weights.files import TOKENIZER_NETWORK
from nerve_ref.weights.hub import Hub
from nerve_ref.weights.lock import (
    PACKAGED_LOCK,
    FilePin,
    LockedNetwork,
    Mirror,
    completed,
    expected_pins,
    is_commit,
    lock_text,
    read_lock,
    with_pins,
)
from tests.unit.nerve_ref.fake_hub import COMMIT, OTHER_COMMIT, FolderHub

ONE, TWO = "1" * 64, "2" * 64


def network(*mirrors: Mirror) -> LockedNetwork:
    return LockedNetwork("MIT", mirrors)


def test_the_packaged_lock_pins_every_network_at_a_commit() -> None:
    lock = read_lock(PACKAGED_LOCK)
    assert set(lock) == (set(CONFIGS) - {"tiny"}) | {TOKENIZER_NETWORK}
    assert all(is_commit(mirror.revision) for entry in lock.values() for mirror in entry.mirrors)


def test_the_packaged_lock_leaves_no_file_without_a_hash() -> None:
    for entry in read_lock(PACKAGED_LOCK).values():
        for mirror in entry.mirrors:
            pins = expected_pins(entry, mirror, tuple(mirror.files))
            assert [path for path, pin in pins.items() if pin.sha256 is None] == []


def test_the_packaged_lock_is_written_as_we_write_locks() -> None:
    assert lock_text(read_lock(PACKAGED_LOCK)) == PACKAGED_LOCK.read_text(encoding="utf-8")


def test_stable_diffusion_says_what_its_licence_is_called_and_has_two_mirrors() -> None:
    entry = read_lock(PACKAGED_LOCK)["stable-diffusion-2-1-base"]
    assert entry.licence == "openrail++"
    assert [mirror.repository.split("/")[0] for mirror in entry.mirrors] == ["sd2-community", "Manojb"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("format_version",), 2, "format_version 2, expected 1"),
        (("networks",), [], r"no sound lock: networks is \[\]"),
        (("networks", "taesd", "mirrors"), [], r"taesd\.mirrors is \[\]: .* at least 1 item"),
        (("networks", "taesd", "licence"), None, r"taesd\.licence is None: .* valid string"),
        (("networks", "taesd", "mirrors", 0, "repository"), "../evil", r"repository is '\.\./evil': .* match pattern"),
        (("networks", "taesd", "mirrors", 0, "revision"), 7, r"mirrors\.0\.revision is 7: .* valid string"),
        (
            ("networks", "taesd", "mirrors", 0, "files"),
            {"../x": {"sha256": None, "bytes": None}},
            "expected a path inside the repository",
        ),
        (
            ("networks", "taesd", "mirrors", 0, "files"),
            {"/x": {"sha256": None, "bytes": None}},
            "expected a path inside the repository",
        ),
        (
            ("networks", "taesd", "mirrors", 0, "files"),
            {"x": {"sha256": "abc", "bytes": None}},
            r"""x\.sha256 is 'abc': .*\{64\}""",
        ),
        (
            ("networks", "taesd", "mirrors", 0, "files"),
            {"x": {"sha256": None, "bytes": -1}},
            r"x\.bytes is -1: .* greater than or equal to 0",
        ),
        (("networks", "taesd", "mirrors", 0, "files"), {"x": {"bytes": None}}, r"x\.sha256 is .*: Field required"),
    ],
)
def test_a_lock_that_is_not_sound_is_refused(
    tmp_path: Path, field: tuple[str, ...], value: object, message: str
) -> None:
    content = json.loads(PACKAGED_LOCK.read_text(encoding="utf-8"))
    inner = content
    for key in field[:-1]:
        inner = inner[key]
    inner[field[-1]] = value
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with pytest.raises(WeightError, match=message):
        read_lock(tmp_path / "lock.json")


def test_what_is_packaged_wins_over_what_a_user_pinned() -> None:
    packaged = {"x": network(Mirror("a/x", "main", {"one": FilePin(ONE, None), "two": FilePin(None, None)}))}
    user = {"x": network(Mirror("a/x", COMMIT, {"one": FilePin(TWO, 3), "two": FilePin(TWO, 4)}))}
    assert completed(packaged, user)["x"].mirrors == (
        Mirror("a/x", COMMIT, {"one": FilePin(ONE, None), "two": FilePin(TWO, 4)}),
    )


def test_a_users_pins_of_another_commit_are_left_out() -> None:
    packaged = {"x": network(Mirror("a/x", COMMIT, {"two": FilePin(None, None)}))}
    user = {"x": network(Mirror("a/x", OTHER_COMMIT, {"two": FilePin(TWO, 4)}))}
    assert completed(packaged, user) == packaged


def test_pins_of_a_new_commit_take_the_place_of_the_old_and_of_the_same_commit_are_added() -> None:
    lock = with_pins({}, "x", "MIT", Mirror("a/x", COMMIT, {"one": FilePin(ONE, None)}))
    lock = with_pins(lock, "x", "MIT", Mirror("a/x", COMMIT, {"two": FilePin(TWO, None)}))
    assert lock["x"].mirrors == (Mirror("a/x", COMMIT, {"one": FilePin(ONE, None), "two": FilePin(TWO, None)}),)
    lock = with_pins(lock, "x", "MIT", Mirror("a/x", OTHER_COMMIT, {"one": FilePin(TWO, None)}))
    assert lock["x"].mirrors == (Mirror("a/x", OTHER_COMMIT, {"one": FilePin(TWO, None)}),)


def test_both_hubs_are_hubs(tmp_path: Path) -> None:
    assert isinstance(HuggingFaceHub(), Hub)
    assert isinstance(FolderHub(tmp_path), Hub)


def test_an_unreachable_hub_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub = HuggingFaceHub("http://127.0.0.1:9")  # the discard port: nobody answers
    with pytest.raises(MirrorError, match=r"the hub could not be reached or broke off \(\w+: "):
        hub.files("owner/name", "main")
