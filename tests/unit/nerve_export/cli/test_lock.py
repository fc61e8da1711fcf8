"""The command that writes the weight lock: where it may write."""

from pathlib import Path
from typing import Any

import pytest

from nerve_export.cli import lock as lock_cli
from nerve_runtime.errors import UsageError


def test_a_lock_is_written_where_a_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(path: Path, *_: Any, **__: Any) -> tuple[str, ...]:
        written.append(path)
        return ()

    monkeypatch.setattr(lock_cli, "fill_lock", write)
    (tmp_path / "link.json").symlink_to(tmp_path / "lock.json")
    lock_cli.lock(tmp_path / "link.json", None)
    assert written == [tmp_path / "lock.json"]


def test_a_device_is_refused_before_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_cli, "fill_lock", lambda *_, **__: pytest.fail("it was written"))
    with pytest.raises(UsageError, match="output /dev/full is a device, expected a file name"):
        lock_cli.lock(Path("/dev/full"), None)
