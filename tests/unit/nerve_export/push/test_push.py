"""`nerve-build push`: what is sent, what is refused, and that it opens again; the real client against a stand-in of the hub."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from nerve_export.cli.build import app
from nerve_export.push.card import card, not_passed_on
from nerve_runtime import NerveError, Segmenter
from nerve_runtime.bundle.hub import bundle_folder, fetched_bundles
from nerve_runtime.bundle.manifest import WeightRecord, load_manifest
from tests.data.fake_bundle import list_engine, make_fake_bundle, write_manifest
from tests.data.hub_server import HubServer, files_in, in_use, serving
from tests.data.tiny_bundle import tiny_bundle_folder

# huggingface_hub 2.4 sends large files in a way that its HTTP library is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

TARGET = "hf://owner/name"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serving() as server, in_use(server, tmp_path / "cache"):
        yield server


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle", random_seed=None)


def push(*words: object) -> Result:
    return CliRunner().invoke(app, ["push", *map(str, words)])


def refusal(*words: object) -> NerveError:
    error = push(*words).exception
    assert isinstance(error, NerveError)
    return error


def front_matter(text: str) -> dict[str, Any]:
    """As the hub's own client reads it."""
    data: Any = ModelCard(text).data
    return dict(data.to_dict())


@pytest.mark.onnx
def test_a_bundle_comes_back_as_it_was_sent_and_gives_the_same_labels(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bundle_folder()
    sent = push(folder, TARGET, "--message", "First")
    assert sent.exit_code == 0, sent.output
    address = sent.stdout.strip()
    (commit,) = hub.repositories["owner/name"].commits
    assert address == f"{TARGET}@{commit}"
    assert hub.repositories["owner/name"].messages == ["First"]
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    labels = []
    for opened in (folder, address):
        with Segmenter.open(opened, ["dog", "water"], backend="ort", cache_dir=None, strict=True) as segmenter:
            labels.append(segmenter.segment(frame).labels)
    np.testing.assert_array_equal(labels[0], labels[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert files_in(bundle_folder(address)) == files_in(folder)


def test_only_what_the_manifest_lists_is_sent_and_the_card(hub: HubServer, bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    sent = push(bundle, TARGET)
    assert sent.exit_code == 0, sent.output
    (files,) = hub.repositories["owner/name"].commits.values()
    assert set(files) == {"README.md", "manifest.json", *load_manifest(bundle).files}


def test_engines_stay_here_and_that_is_said(hub: HubServer, bundle: Path) -> None:
    engine = list_engine(bundle, random_seed=None)
    sent = push(bundle, TARGET)
    assert sent.exit_code == 0, sent.output
    assert f"left out: {engine}; engines are executable code for one machine" in sent.stderr
    (files,) = hub.repositories["owner/name"].commits.values()
    assert engine not in files
    opened = bundle_folder(sent.stdout.strip())
    assert load_manifest(opened).engines == ()
    assert opened.parent.parent == fetched_bundles()


def test_a_branch_is_made_and_committed_to(hub: HubServer, bundle: Path) -> None:
    push(bundle, TARGET)
    address = push(bundle, TARGET, "--revision", "fp16").stdout.strip()
    branches = hub.repositories["owner/name"].branches
    assert address == f"{TARGET}@{branches['fp16']}"
    assert branches["fp16"] != branches["main"]


def test_private_is_kept_or_refused(hub: HubServer, bundle: Path) -> None:
    push(bundle, TARGET, "--private")
    assert hub.repositories["owner/name"].private
    push(bundle, "hf://owner/public")
    error = refusal(bundle, "hf://owner/public", "--private")
    assert str(error).startswith("owner/public is public already, and --private does not change that")
    assert len(hub.repositories["owner/public"].commits) == 1


def test_row_56_without_the_right_to_write_nothing_is_committed(
    hub: HubServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    error = refusal(bundle, TARGET)
    assert error.exit_code == 6
    assert "the hub refuses (HTTP 403): there is no token, or it has no rights to this" in str(error)
    assert "somebody" not in str(error)
    assert hub.repositories == {}


def test_row_56_a_damaged_bundle_is_not_sent(hub: HubServer, bundle: Path) -> None:
    (bundle / "walk.onnx").write_bytes(b"DUMMY bytes of walk")
    error = refusal(bundle, TARGET)
    assert error.exit_code == 3
    assert "the file was changed" in str(error)
    assert hub.asked == []


def test_row_56_random_weights_are_sent_on_demand_only(hub: HubServer, bundle: Path) -> None:
    write_manifest(bundle, random_seed=7)
    error = refusal(bundle, TARGET)
    assert error.exit_code == 2
    assert "has random weights (seed 7), so its labels mean nothing; build it with real ones, or send it" in str(error)
    assert hub.asked == []
    assert push(bundle, TARGET, "--allow-random").exit_code == 0
    (files,) = hub.repositories["owner/name"].commits.values()
    assert b"RANDOM WEIGHTS (seed 7). THE LABELS OF THIS BUNDLE MEAN NOTHING." in files["README.md"]


def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(hub: HubServer, bundle: Path) -> None:
    ended = push(bundle, TARGET, "--dry-run")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("would send ")
    assert "  walk.onnx  0.00 MB\n" in ended.stdout
    assert "# owner/name\n" in ended.stdout
    assert hub.asked == []


@pytest.mark.parametrize("target", ["owner/name", "hf://owner/name@main", "bundles/tiny"])
def test_a_target_is_a_repository(bundle: Path, target: str) -> None:
    assert "expected hf://owner/name; name a branch with --revision" in str(refusal(bundle, target))


@pytest.mark.parametrize(
    "branch",
    ["", "ä..b", "a..b", "a b", "a\n", "a~1", "a^", "a:b", "a*", "a\\b", "/a", "a/", "a//b", "a.", ".a", "a/.b", "a.lock",
     "a.lock/b", "--force"],
)  # fmt: skip
def test_a_branch_has_a_name_that_git_and_an_address_take(bundle: Path, branch: str) -> None:
    error = refusal(bundle, TARGET, f"--revision={branch}", "--dry-run")
    assert f"--revision is {branch!r}, expected the name of a branch" in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize("branch", ["main", "fp16", "v1.2", "refs/pr/1", "a.locked", "a-b_c/d"])
def test_a_usual_branch_is_taken(bundle: Path, branch: str) -> None:
    assert push(bundle, TARGET, "--revision", branch, "--dry-run").exit_code == 0


def test_a_licence_that_is_not_known_to_let_weights_be_passed_on_is_told(bundle: Path, hub: HubServer) -> None:
    weights = [_weights("clip", "MIT", "hub:openai/clip@main:model.safetensors"), _weights("unet", "cc-by-nc-4.0")]
    write_manifest(bundle, random_seed=None, weights=[record.model_dump() for record in weights])
    ended = push(bundle, TARGET, "--dry-run")
    assert "unet (local:unet.safetensors) has the licence 'cc-by-nc-4.0', which is not known to let you" in ended.stderr
    assert "clip" not in ended.stderr
    manifest = load_manifest(bundle)
    front = front_matter(card(bundle, manifest, "owner/name", "main"))
    assert front["license"] == "other"
    assert front["base_model"] == ["openai/clip"]


def test_a_licence_that_lets_weights_be_passed_on_is_the_cards(bundle: Path) -> None:
    manifest = load_manifest(bundle).model_copy(update={"weights": (_weights("unet", "openrail++"),)})
    assert not_passed_on(manifest) == ()
    assert front_matter(card(bundle, manifest, "owner/name", "main"))["license"] == "openrail++"


@pytest.mark.onnx
def test_the_card_has_licences_sources_comparison_cost_and_limits(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle_folder(), folder)
    manifest = load_manifest(folder)
    text = card(folder, manifest, "owner/tiny", "main")
    front = front_matter(text)
    assert (front["license"], front["pipeline_tag"]) == ("apache-2.0", "image-segmentation")
    assert 'Segmenter.open("hf://owner/tiny@main", classes=["sunflower", "water"])' in text
    for record in manifest.weights:
        assert f"| {record.role} | `{record.source}` | `{record.revision}` | {record.licence} |" in text
    assert "all agree within the tolerances of `parity.json`" in text
    assert f"| attention | {manifest.stages['attention'].gmac:.3f} |" in text
    assert "trained on a synthetic world of 38 words" in text
    assert "RANDOM" not in text


def test_a_comparison_that_failed_is_not_called_a_success(bundle: Path) -> None:
    taps = [{"stage": "walk", "cosine": None, "agreement": 0.5, "max_abs": 1.0}]
    (bundle / "parity.json").write_text(
        f'{{"backend": "ort", "passed": false, "taps": {taps}}}'.replace("'", '"').replace("None", "null")
    )
    manifest = load_manifest(bundle)
    record = next(iter(manifest.files.values()))
    manifest = manifest.model_copy(update={"files": {**manifest.files, "parity.json": record}})
    text = card(bundle, manifest, "owner/name", "main")
    assert "**NOT all agree**" in text
    assert "| walk | 1 |  | 50.000 % | 1.00e+00 |" in text


def _weights(role: str, licence: str, source: str | None = None) -> WeightRecord:
    return WeightRecord(
        role=role, source=source or f"local:{role}.safetensors", revision="local", sha256="0" * 64, licence=licence
    )
