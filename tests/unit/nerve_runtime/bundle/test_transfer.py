"""One file of the hub: a busy hub is asked again, a cut connection is taken up, a full disk stays our own error."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nerve_runtime.bundle.transfer import ATTEMPTS, TooLongError, fetch_file
from tests.data.hub_server import HubServer, serving

huggingface_hub = pytest.importorskip("huggingface_hub")
CONTENT = bytes(range(256)) * 4096
NAME = "weights.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    with serving() as server:
        server.add("owner/whole", {NAME: CONTENT})
        yield server


def fetch(hub: HubServer, target: Path, limit_bytes: int = len(CONTENT)) -> list[float]:
    """Fetch the file; returns how long the hub was waited for."""
    waits: list[float] = []
    fetch_file(
        "owner/whole", "main", NAME, target,
        limit_bytes=limit_bytes, expected_bytes=len(CONTENT), endpoint=hub.address, wait=waits.append,
    )  # fmt: skip
    return waits


def test_row_61_a_busy_hub_is_asked_again_after_the_time_that_it_names(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.busy[NAME] = [(503, "7"), (502, ""), (500, "soon")]
    assert fetch(hub, tmp_path / "file") == [7.0, 2.0, 4.0]
    assert f"the hub is busy, {NAME} is asked for again in 7 s" in caplog.text
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_row_61_a_hub_that_stays_busy_is_given_up(hub: HubServer, tmp_path: Path) -> None:
    hub.busy[NAME] = [(503, "0")] * (ATTEMPTS + 1)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="503"):
        fetch(hub, tmp_path / "file")
    assert hub.busy[NAME] == []


def test_row_61_a_hub_that_asks_for_an_hour_is_given_up_at_once(hub: HubServer, tmp_path: Path) -> None:
    hub.busy[NAME] = [(503, "3600")]
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="503"):
        fetch(hub, tmp_path / "file")


def test_a_refusal_is_not_repeated(hub: HubServer, tmp_path: Path) -> None:
    hub.busy[NAME] = [(403, "1")]
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="403"):
        fetch(hub, tmp_path / "file")
    assert len(hub.asked) == 1


def test_row_60_what_is_there_is_gone_on_with(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:1000])
    hub.busy[NAME] = [(503, "0")]
    hub.cuts[NAME] = [300_000]
    fetch(hub, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    # http_get writes whole pieces of 64 KiB: four of them came before the cut.
    assert [asked for _, _, asked in hub.asked] == ["bytes=1000-", "bytes=1000-", f"bytes={1000 + 4 * 65536}-"]


def test_a_file_that_is_whole_is_not_asked_for(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    fetch(hub, tmp_path / "file")
    assert hub.asked == []


def test_more_than_it_may_be_is_deleted(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(TooLongError, match=r"owner/whole: weights\.safetensors is longer than 99999 bytes"):
        fetch(hub, tmp_path / "file", limit_bytes=99_999)
    assert not (tmp_path / "file").exists()


def test_a_full_disk_is_said_as_the_system_says_it(hub: HubServer) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        fetch(hub, Path("/dev/full"))
