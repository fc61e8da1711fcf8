"""The doctor finds bundles, weights and extras by their names and sizes."""

import re
from pathlib import Path

import pytest

from nerve_export.doctor import inventory
from nerve_export.doctor.inventory import EXTRAS, found_bundles, found_extras, found_weights
from nerve_runtime.bundle.manifest import load_manifest
from tests.contracts.checkout import settings
from tests.data.fake_bundle import make_fake_bundle

TOKENIZER = "nerve-deploy/weights/openai--clip-vit-large-patch14/32bd64288804d66eefd0ccbe215aa642df71cc41"


def test_every_extra_is_listed_with_the_packages_that_it_installs() -> None:
    extras = settings()["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras)
    for name, (_is_for, packages) in EXTRAS.items():
        listed = {re.split(r"[>=<;\[ ]", line)[0] for line in extras[name]} - {"nerve-deploy", "tomli"}
        assert set(packages) == {"cuda-bindings" if package == "cuda-python" else package for package in listed}, name


def test_an_extra_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_is_installed", lambda project: project != "polygraphy")
    assert {extra.name: extra.missing for extra in found_extras() if extra.missing} == {"parity": ("polygraphy",)}


def test_a_network_is_on_disk_when_all_of_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not any(network.is_here for network in found_weights())
    (tmp_path / TOKENIZER).mkdir(parents=True)
    (tmp_path / TOKENIZER / "tokenizer.json").write_text("{}")
    here = {network.name: network.missing_bytes for network in found_weights() if network.is_here}
    assert here == {"clip-tokenizer": 0}


def test_a_bundle_is_whole_damaged_or_no_bundle(tmp_path: Path) -> None:
    make_fake_bundle(tmp_path / "whole")
    make_fake_bundle(tmp_path / "cut")
    cut = next(iter(load_manifest(tmp_path / "cut").files))
    (tmp_path / "cut" / cut).write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    cut_state, other, whole = found_bundles(tmp_path)
    assert (whole.is_whole, whole.says.startswith("whole, ")) == (True, True)
    assert "preset fake, fp32" in whole.says
    assert (cut_state.is_whole, cut_state.says) == (False, f"{cut} is missing or of another size; build it again")
    assert not other.is_whole


def test_hashes_are_looked_at_when_it_is_asked_for(tmp_path: Path) -> None:
    make_fake_bundle(tmp_path / "swapped")
    manifest = load_manifest(tmp_path / "swapped")
    name, record = next(iter(manifest.files.items()))
    (tmp_path / "swapped" / name).write_bytes(b"x" * record.bytes)
    assert [state.is_whole for state in found_bundles(tmp_path)] == [True]
    assert [state.is_whole for state in found_bundles(tmp_path, verify=True)] == [False]


def test_a_bundle_of_the_same_plan_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fake_bundle(tmp_path / "tiny", preset="tiny")
    monkeypatch.setattr(inventory, "_plan_of", lambda path, manifest: (path, manifest.preset))
    key = load_manifest(tmp_path / "tiny").plan_key
    monkeypatch.setattr(inventory, "plan_weights", lambda _plan, _progress: None)
    monkeypatch.setattr(inventory, "plan_key", lambda _plan, _weights: key)
    assert [state.says.split("; ")[0] for state in found_bundles(tmp_path)] == ["whole, up to date"]
    monkeypatch.setattr(inventory, "plan_key", lambda _plan, _weights: "another")
    assert "made by other sources, libraries or files" in next(found_bundles(tmp_path)).says
