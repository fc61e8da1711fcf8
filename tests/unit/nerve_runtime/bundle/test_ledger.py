import threading
from pathlib import Path

import pytest

from nerve_export.engines.ledger import note_engine
from nerve_runtime.bundle.ledger import Ledger, default_ledger_path
from nerve_runtime.errors import ResourceError

FIRST, SECOND = "a" * 64, "b" * 64


def test_an_engine_is_known_once_it_was_noted_and_not_before(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "deep" / "engines.json")
    assert not ledger.knows(FIRST)
    note_engine(ledger, FIRST, "walk for rtx-sm89")
    assert ledger.knows(FIRST)
    assert not ledger.knows(SECOND)
    assert Ledger(ledger.path).knows(FIRST)  # by the file, not by the object
    assert "walk for rtx-sm89" in ledger.path.read_text()


def test_a_note_about_a_name_that_no_locale_decodes_does_not_damage_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "engines.json")
    note_engine(ledger, FIRST, "walk of b\udcff")
    assert ledger.knows(FIRST)


def test_asking_makes_no_file(tmp_path: Path) -> None:
    Ledger(tmp_path / "engines.json").knows(FIRST)
    assert list(tmp_path.iterdir()) == []


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    hashes = [f"{number:064x}" for number in range(12)]
    threads = [threading.Thread(target=note_engine, args=(Ledger(path), sha256, "one of many")) for sha256 in hashes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(Ledger(path).knows(sha256) for sha256 in hashes)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"engines": {"short": {}}}', b'{"engines": {}, "more": 1}'])
def test_a_damaged_ledger_is_never_taken_for_an_empty_one(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path / "engines.json")
    ledger.path.write_bytes(content)
    with pytest.raises(ResourceError, match=r"engines\.json, is damaged .*delete it, then build the engines again"):
        ledger.knows(FIRST)
    with pytest.raises(ResourceError, match="is damaged"):
        note_engine(ledger, FIRST, "too late")
    assert ledger.path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot write .*engines\.json"):
        note_engine(Ledger(tmp_path / "file" / "engines.json"), FIRST, "nowhere")


def test_the_users_own_ledger_lies_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Ledger().path == default_ledger_path()
    assert default_ledger_path().name == "engines.json"
