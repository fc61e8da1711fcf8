"""Every command that takes a bundle takes an address of the hub."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import nerve_bench.cli.main
import nerve_export.cli.build
import nerve_stream.cli.segment
import nerve_stream.cli.vocabulary
from nerve_runtime import BundleError
from tests.data.fake_bundle import make_fake_bundle
from tests.data.hub_server import HubServer, files_in, in_use, serving

pytest.importorskip("huggingface_hub")

BENCH, BUILD = nerve_bench.cli.main.app, nerve_export.cli.build.app
SEGMENT, VOCABULARY = nerve_stream.cli.segment.app, nerve_stream.cli.vocabulary.app
GONE = "hf://owner/gone@main"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serving() as server, in_use(server, tmp_path / "cache"):
        yield server


@pytest.fixture
def commit(hub: HubServer, tmp_path: Path) -> str:
    return hub.add("owner/whole", files_in(make_fake_bundle(tmp_path / "published")))


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (BUILD, f"engines {GONE}"),
        (BUILD, f"parity {GONE}"),
        (BUILD, f"push {GONE} hf://owner/name"),
        (BENCH, f"accuracy --bundle {GONE}"),
        (BENCH, f"agreement --bundle {GONE}"),
        (BENCH, f"video --bundle {GONE}"),
        (BENCH, f"latency --bundle {GONE}"),
        (BENCH, f"evaluate --dataset voc21 --data . --bundle {GONE}"),
        (BENCH, f"reproduce --data . --bundle {GONE}"),
        (BENCH, f"true-size {GONE}"),
        (BENCH, f"cost {GONE}"),
        (BENCH, f"memory {GONE}"),
        (BENCH, f"certify {GONE}"),
        (BENCH, f"batch {GONE}"),
        (BENCH, f"load {GONE}"),
        (BUILD, f"deepstream {GONE} --vocabulary words.safetensors --out out"),
    ],
)
def test_a_command_asks_the_hub(hub: HubServer, app: typer.Typer, words: str) -> None:
    error = CliRunner().invoke(app, words.split()).exception
    assert isinstance(error, BundleError)
    assert "hf://owner/gone@main: the hub has no such repository, or it is private" in str(error)


def test_a_picture_is_segmented_by_a_bundle_of_the_hub(hub: HubServer, commit: str, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "one.png")
    words = ["--bundle", f"hf://owner/whole@{commit}", "--classes", "grass; road", "--backend", "fake", "--strict"]
    masks = tmp_path / "mask.png"
    ended = CliRunner().invoke(SEGMENT, [str(tmp_path / "one.png"), *words, "--masks", str(masks)])
    assert ended.exit_code == 0, ended.output
    assert Image.open(masks).size == (60, 40)
    ended = CliRunner().invoke(VOCABULARY, [str(tmp_path / "words.safetensors"), *words])
    assert ended.exit_code == 0, ended.output


@pytest.mark.parametrize(
    ("bundle", "code", "message"),
    [
        ("hf://owner/whole@main", 2, "is not pinned: strict takes a commit of 40 hex digits"),
        (GONE.removesuffix("@main") + "@" + "0" * 40, 3, "the hub has no such repository"),
        ("hf://owner/gated@" + "0" * 40, 6, "is gated: accept its terms on the hub"),
        ("hf://owner", 2, "is not hf://owner/name or hf://owner/name@revision"),
    ],
)
def test_row_52_a_refusal_is_one_line_and_an_exit_code(
    hub: HubServer, commit: str, bundle: str, code: int, message: str
) -> None:
    words = ["--bundle", bundle, "--classes", "grass; road", "--strict"]
    for app, source in ((SEGMENT, "one.png"), (VOCABULARY, "words.safetensors")):
        ended = CliRunner().invoke(app, [source, *words])
        assert ended.exit_code == code
        (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert message in line
