"""How a path is judged: who could have changed what it leads to."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from harness.installations import server_user
from pgidle.system.trusted_path import open_folder, read_trusted, trust_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.installations import Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: gives files to another user")


def make_tree(place: Place, owner: int) -> Path:
    folder = place.folder("tree")
    os.chown(folder, owner, owner)
    folder.chmod(0o755)
    return folder


@needs_root
@pytest.mark.parametrize("change", ["owner", "group", "everybody", "folder", "folder of a folder"])
def test_one_weak_step_is_enough(place: Place, change: str) -> None:
    top = make_tree(place, 0)
    inner = top / "a/b"
    inner.mkdir(parents=True)
    file = inner / "file"
    file.write_text("content")
    trust = trust_in(0, 0)
    assert read_trusted(str(file), trust) == (b"content", None)
    uid = server_user().pw_uid
    weaken: dict[str, Callable[[], object]] = {
        "owner": lambda: os.chown(file, uid, 0),
        "group": lambda: file.chmod(0o664),
        "everybody": lambda: file.chmod(0o646),
        "folder": lambda: os.chown(inner, uid, 0),
        "folder of a folder": lambda: inner.parent.chmod(0o777),
    }
    weaken[change]()
    content, weakness = read_trusted(str(file), trust)
    assert content == b"content"
    assert weakness is not None
    assert weakness.path == {"folder": str(inner), "folder of a folder": str(inner.parent)}.get(
        change, str(file)
    )


@needs_root
def test_a_folder_where_only_owners_remove_is_as_good_as_what_is_in_it(place: Place) -> None:
    top = make_tree(place, 0)
    top.chmod(0o1777)
    for owner, is_good in ((0, True), (server_user().pw_uid, False)):
        file = top / str(owner)
        file.write_text("")
        os.chown(file, owner, 0)
        assert (read_trusted(str(file), trust_in(0, 0))[1] is None) is is_good


@needs_root
def test_links_of_root_s_are_followed_and_others_are_not(place: Place) -> None:
    top, uid = make_tree(place, 0), server_user().pw_uid
    (top / "real").mkdir()
    (top / "real/file").write_text("content")
    (top / "whole").symlink_to(top / "real")
    (top / "relative").symlink_to("whole/../real/./file")
    (top / "loop").symlink_to("loop")
    for path in ("whole/file", "relative"):
        assert read_trusted(str(top / path), trust_in(0, 0)) == (b"content", None)
    with pytest.raises(OSError, match="Too many levels"):
        read_trusted(str(top / "loop"), trust_in(0, 0))
    os.chown(top / "whole", uid, uid, follow_symlinks=False)
    with pytest.raises(OSError, match="another user could have put there"):
        read_trusted(str(top / "whole/file"), trust_in(0, 0))
    assert read_trusted(str(top / "whole/file"), trust_in(uid, 0)) == (b"content", None)
    # root's own, but where another can rename it.
    (top / "theirs").mkdir()
    os.chown(top / "theirs", uid, uid)
    (top / "theirs/link").symlink_to(top / "real")
    with pytest.raises(OSError, match="another user could have put there"):
        open_folder(str(top / "theirs/link"), trust_in(0, 0))


@needs_root
def test_a_group_of_the_caller_s_own_may_write_and_root_s_may_not(place: Place) -> None:
    user = server_user()
    top = make_tree(place, 0)
    file = top / "file"
    file.write_text("")
    file.chmod(0o664)
    for gid, caller, is_good in (
        (user.pw_gid, (user.pw_uid, user.pw_gid), True),
        (pwd.getpwnam("nobody").pw_gid, (user.pw_uid, user.pw_gid), False),
        (0, (0, 0), False),
    ):
        os.chown(file, 0, gid)
        assert (read_trusted(str(file), trust_in(*caller))[1] is None) is is_good


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        read_trusted("/dev/null", trust_in(os.geteuid(), os.getegid()))
