"""What a run leaves on disk: files that are whole, folders that are its own; and the checks of names and folders."""

import json
import math
import os

import numpy as np
import pytest
from jobs import claim, finish, probe, start

from spiking.checks import check_folder, check_name, check_text
from spiking.runs import files
from spiking.runs.folder import RunFolder


def test_infinity_is_written_one_way(tmp_path):
    files.write_json(tmp_path / "a.json", {"tau": math.inf, "low": [-np.inf], "none": np.float32("nan"), 3: (1, None)})
    text = (tmp_path / "a.json").read_text()
    expected = {"tau": "inf", "low": ["-inf"], "none": "nan", "3": [1, None]}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_a_full_disk_leaves_the_old_file_and_names_the_remedy(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.txt", "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*Received: '.*a.txt'.*Free some space"):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("replace"), replace(old, new)))
    files.write_text(tmp_path / "a.txt", "text")
    assert done == ["fsync", "replace", "fsync"]


def test_folders_are_new_in_both_places(tmp_path):
    (tmp_path / "logs" / "title").mkdir(parents=True)
    first, second = (RunFolder.claim(tmp_path / "runs", "run", tmp_path / "logs", "title") for _ in range(2))
    assert [(each.path.name, each.tblogs.name) for each in (first, second)] == [
        ("run-2", "title-2"), ("run-3", "title-3")
    ]  # fmt: skip
    both = RunFolder.claim(tmp_path / "same", "x", tmp_path / "same", "x")
    assert both.path == both.tblogs


@pytest.mark.parametrize("where", ["results", "logs"])
def test_a_link_that_leads_nowhere_is_refused_in_time(tmp_path, where):
    (tmp_path / where).symlink_to(tmp_path / "gone")
    # in a process of its own, because what it did once could not be stopped: it tried one number after another
    finish(start(claim, tmp_path / "results", tmp_path / "logs", tmp_path / "answer"))
    told = (tmp_path / "answer").read_text(encoding="utf-8")
    assert "OSError: A folder could not be made" in told and "link must lead somewhere" in told
    for folder in (tmp_path / where, tmp_path / where / "below"):
        with pytest.raises(OSError, match=f"{where} must be a folder that can be written.*leads nowhere.*Received"):
            check_folder(where, folder)
    assert {path.name for path in tmp_path.iterdir()} <= {where, "results", "logs", "answer"}


def test_a_run_beside_a_link_that_leads_nowhere_gets_a_number(tmp_path):
    for folder, name in (("results", "run"), ("logs", "run-2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(tmp_path / "gone")
    folder = RunFolder.claim(tmp_path / "results", "run", tmp_path / "logs", "run")
    assert (folder.path.name, folder.tblogs.name) == ("run-3", "run-3")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["run", "run-3"]


def test_probes_of_several_processes_do_not_disturb_one_another(tmp_path):
    for each in [start(probe, tmp_path / "anns") for _ in range(3)]:
        finish(each)
    assert list((tmp_path / "anns").iterdir()) == []


def test_without_a_home_the_folder_is_refused_by_name(monkeypatch):
    def unknown(*args):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for folder in ("~/runs", "~nobody_of_that_name/runs"):
        with pytest.raises(OSError, match="results_dir must be a folder that can be written.*home.*Received"):
            check_folder("results_dir", folder)


@pytest.mark.parametrize("name", ["運" * 67, "\ud800", "x" * 201, "a/b", "", ".a", 3, "anns"])
def test_names_that_no_folder_can_have_are_refused(name):
    with pytest.raises(ValueError, match="name names a folder.*bytes.*Received: name="):
        check_name("name", name, reserved=("anns",))


def test_names_are_measured_in_bytes(tmp_path):
    name = check_name("name", "運" * 66)  # 198 bytes
    assert RunFolder.claim(tmp_path, name, tmp_path / "logs", name).path.is_dir()


@pytest.mark.parametrize("folder", ["a\ud800", "x" * 256, "運" * 86, "a\0b"])
def test_folders_that_cannot_be_told_are_refused(tmp_path, folder):
    with pytest.raises(OSError, match="results_dir must be a folder that can be written.*Received"):
        check_folder("results_dir", tmp_path / folder / "below")


def test_texts_are_told_in_utf_8():
    assert check_text("dataset", "運.npz") == "運.npz"
    with pytest.raises(ValueError, match="dataset must be text.*Received"):
        check_text("dataset", "\udcff.npz")
