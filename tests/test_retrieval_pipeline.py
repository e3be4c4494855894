"""Stage 1's data from end to end, on pre-computed embeddings: counts, equal bytes, a kill, one line for bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("apache_beam")
pytest.importorskip("pyarrow")

from data_pipelines.retrieval import build
from data_pipelines.retrieval.__main__ import main
from data_pipelines.retrieval.blocks import WorkFolder
from tests.small_pairs import PER_TAR, TARS, make_pairs

COMMON = ["--min_side=8", "--size=16", "--max_repeats=2", "--pictures_per_cluster=1", "--splits=0.8,0.1,0.1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_pairs(folder)
    return folder


def arguments(data: Path, output: Path) -> list[str]:
    places = [f"--input={data}/pairs/*.tar", f"--embeddings={data}/embeddings", f"--domains={data}/domains.npz"]
    return [*places, *COMMON, "--shard_clusters=20", f"--output={output}"]


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "neighbors"
    assert main(arguments(data, output)) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_pair_is_kept_or_dropped_for_a_reason(built):
    manifest = json.loads((built / "manifest.json").read_text())
    steps = {step["step"]: step for step in manifest["steps"]}
    assert all(step["read"] == step["kept"] + sum(step["dropped"].values()) for step in steps.values())
    dropped = {name: step["dropped"] for name, step in steps.items() if step["unit"] == "pairs"}
    assert steps["read"]["read"] == TARS * PER_TAR
    assert dropped == {
        "read": {"truncated tar": 1},
        "quality": {"broken picture": 1, "caption is a file name or an address": 1, "side below 8 px": 1},
        "embed": {"no embedding of its name": 1},
        "distinct pictures": {"identical pixels": 1},
        "distinct captions": {"caption on more than 2 pairs": 2},
        "domains": {"no domain": 1},
        "seeds": {},
    }
    assert set(steps["near-duplicates"]["dropped"]) >= {"similarity of 0.9 or more", "beyond the 5 nearest"}
    assert sum(manifest["pairs_by_domain"].values()) == steps["domains"]["kept"]
    written = steps["write"]["kept"]
    assert sum(manifest["clusters"].values()) == sum(manifest["clusters_by_domain"].values()) == written > 50
    assert set(manifest["pictures_by_licence"]) == {"CC0-1.0", "CC-BY-4.0"}
    assert len(manifest["shards"]["train"]) > 1
    assert not built.with_name("neighbors.work").exists()


def test_the_finished_folder_is_verified(built, capsys):
    assert main([f"--verify={built}"]) == 0
    assert "no near-duplicates in any" in capsys.readouterr().out
    assert main([f"--verify={built}", "--embed_again"]) == 2
    assert "embeddings came from elsewhere" in capsys.readouterr().err
    assert main([f"--verify={built}", "--embed_agian"]) == 2
    assert "--embed_agian: no option of --verify" in capsys.readouterr().err
    assert main([f"--verify={built.parent}"]) == 2
    assert "give the --output of a finished run" in capsys.readouterr().err


def test_killed_in_the_middle_and_run_again_nothing_is_lost_or_doubled(data, built, tmp_path):
    output, work = tmp_path / "neighbors", WorkFolder(tmp_path / "neighbors.work")
    command = [sys.executable, "-m", "data_pipelines.retrieval", *arguments(data, output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not work.blocks() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not output.exists()
    finished = {name: (work.path / "blocks" / f"{name}.zip").stat().st_mtime_ns for name in work.blocks()}
    assert finished
    assert main([*arguments(data, output), "--keep_work", "--direct_num_workers=1"]) == 0
    assert contents(output) == contents(built)  # which is also: the same bytes from another number of workers
    for name, written in finished.items():
        assert (work.path / "blocks" / f"{name}.zip").stat().st_mtime_ns == written


def test_a_domain_above_the_limit_is_dealt_out(data, tmp_path, capsys):
    assert main([*arguments(data, tmp_path / "out"), "--max_domain_size=25", "--pictures_per_cluster=2"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert any("train/food/000" in name for name in manifest["clusters_by_domain"])
    assert main([f"--verify={tmp_path / 'out'}"]) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--min_match=2"], "no cluster is left: step 'domains' kept none: no domain (112 of 112)"),
        (["--members=60", "--neighbors=99"], "no cluster is left: step 'cluster size' kept none: fewer than 60"),
        (["--input=/nowhere"], "/nowhere: no such file or folder"),
        (["--embeddings=/nowhere"], "has no img_emb_*.npy"),
        (["--domains=/nowhere.npz"], "/nowhere.npz: unreadable"),
        (["--neighbors=3"], "--neighbors=3: must be 4 or more"),
        (
            ["--group=identiy"],
            "--group: the first pairs have no field 'identiy': name one of theirs: caption, key, license, url",
        ),
        (
            ["--same", "url", "key+hous"],
            "--same: the first pairs have no field 'hous': name one",
        ),
        (["--min_sid=3"], "--min_sid=3: no such option"),
        (["--direct_num_worker=3"], "did you mean --direct_num_workers?"),
        (["--input", "a.tar", "b.tar"], "b.tar: belongs to no option: quote a pattern"),
        (["--runner=DirectRunner", "b.tar"], "b.tar: belongs to no option"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, changes, words, capfd):
    output = tmp_path / "out"
    assert main([*arguments(data, output), *changes]) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and words in error[0]
    assert not output.exists()


def test_what_does_not_fit_together_is_one_line(data, built, tmp_path, capsys):
    given = arguments(data, built)
    assert main(given) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([flag for flag in arguments(data, tmp_path / "out") if not flag.startswith("--domains")]) == 2
    assert "--embeddings needs the prompts' vectors too" in capsys.readouterr().err
    work = WorkFolder(tmp_path / "out.work")
    work.start({"size": 99})
    assert main(arguments(data, tmp_path / "out")) == 2
    assert "delete it, or give another --work" in capsys.readouterr().err
    assert main(["--input=here"]) == 2
    assert "give --input and --output" in capsys.readouterr().err


def test_a_work_folder_that_holds_or_would_take_something_else_is_refused(data, tmp_path, monkeypatch, capsys):
    output, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for given, words in (
        ([f"--work={mine}"], "mine: holds something else (thesis.txt): give a new or empty folder as --work"),
        ([f"--work={tmp_path}"], f"--work={tmp_path} and --output={output}: one lies in the other: move either"),
        ([f"--work={output / 'work'}"], f"/work and --output={output}: one lies in the other: move either"),
    ):
        assert main([*arguments(data, output), *given]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(build, "_disk", str)
    assert main(arguments(data, output)) == 2
    assert "out.work: lies on another disk: give a --work on the disk of --output" in capsys.readouterr().err
    assert (mine / "thesis.txt").read_text() == "years of work" and not output.exists()
