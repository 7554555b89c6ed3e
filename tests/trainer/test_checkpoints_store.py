"""The two stores do the same; names that lead elsewhere are refused."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from checkpoint_files import everything
from fsspec.implementations.memory import MemoryFileSystem

from tenuto.trainer.checkpoints.errors import UnsafePathError
from tenuto.trainer.checkpoints.local_store import LocalStore
from tenuto.trainer.checkpoints.remote_store import StoreError
from tenuto.trainer.checkpoints.store import Store, open_store


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return open_store(str(tmp_path / "store"))
    return open_store(f"memory://{uuid.uuid4().hex}/store")


def test_what_is_written_is_read_and_replaced(store: Store) -> None:
    store.write("a/b/x.json", b"1")
    store.write("a/b/x.json", b"22")
    assert store.read("a/b/x.json") == b"22"
    assert store.size("a/b/x.json") == 2
    assert store.names("a/b") == ["x.json"]


def test_what_is_not_there_is_told_so(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("a/x.json")
    assert store.size("a/x.json") is None
    assert store.names("a") == []
    store.delete("a")
    store.sweep("a")


def test_only_one_creates_a_name(store: Store) -> None:
    assert store.create("feed/1.json", b"mine")
    assert not store.create("feed/1.json", b"theirs")
    assert store.read("feed/1.json") == b"mine"


def test_a_folder_goes_with_all_below_it(store: Store) -> None:
    for path in ("v/1/a", "v/1/b/c", "v/2/a"):
        store.write(path, b"x")
    store.delete("v/1")
    assert store.names("v") == ["2"]
    assert store.names("v/2") == ["a"]


def test_file_urls_are_directories(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/s").write("a", b"1")
    assert LocalStore(tmp_path / "s").read("a") == b"1"


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        open_store("nosuch://bucket/x")


class Down(MemoryFileSystem):
    """Of a package whose errors are its own."""

    protocol = "down"
    store: ClassVar[dict[str, Any]] = {}

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        raise RuntimeError("endpoint gone")


def test_errors_of_a_stores_own_package_are_those_of_a_medium() -> None:
    fsspec.register_implementation("down", Down, clobber=True)
    with pytest.raises(StoreError, match=r"down://x/a/latest.json: RuntimeError: endpoint gone"):
        open_store("down://x").read("a/latest.json")
    assert issubclass(StoreError, OSError)


def test_a_write_leaves_nothing_beside_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("a/x", b"1")
    store.create("a/x", b"2")
    assert everything(tmp_path) == {"a/x"}


def test_links_are_not_followed_but_to_the_store_itself(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "real" / "folder").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "store")
    store.write("folder/x", b"1")
    assert store.read("folder/x") == b"1"
    (tmp_path / "real" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "real" / "folder")
    for path in ("link", "linked/x"):
        with pytest.raises(UnsafePathError, match="a link"):
            store.read(path)
        with pytest.raises(UnsafePathError, match="a link"):
            store.size(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePathError, match="not a file"):
        LocalStore(tmp_path).read("pipe")


def test_deleting_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    LocalStore(tmp_path).delete("link")
    assert everything(tmp_path) == {"real/x"}
