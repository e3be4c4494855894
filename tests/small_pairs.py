"""A small captioned set with embeddings as clip-retrieval writes them, and one of each thing that must be left out."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WIDTH = 16  # numbers in an embedding
SIDE = 24
DOMAINS = {"food": np.eye(WIDTH)[:1], "animals": np.eye(WIDTH)[1:3]}
TARS = 4
PER_TAR = 30  # the last one is cut off in its last pair


def _vector(rng: np.random.Generator, domain: int) -> np.ndarray:
    """A direction that is 0.7 alike to its domain's prompt, and about 0.5 to the others of the domain."""
    noise = np.concatenate([np.zeros(3), rng.normal(size=WIDTH - 3)])
    return 0.7 * np.eye(WIDTH)[domain] + np.sqrt(1 - 0.49) * noise / np.linalg.norm(noise)


def make_pairs(folder: Path, seed: int = 0) -> None:
    """Writes pairs/*.tar, embeddings/ and domains.npz below `folder`."""
    rng = np.random.default_rng(seed)
    count = TARS * PER_TAR
    vectors = np.stack([_vector(rng, i % 2) for i in range(count)])
    pictures = rng.integers(0, 256, (count, 4, 4, 3), np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    samples = [
        {"key": f"{i:09d}", "caption": f"{'a dish' if i % 2 == 0 else 'a pet'} of kind {i}", "url": f"page/{i}"}
        for i in range(count)
    ]
    vectors[3], samples[4]["url"] = vectors[1] + 1e-3, samples[2]["url"]  # near-duplicates
    pictures[7] = pictures[5]  # identical
    pictures[11] = np.clip(pictures[9].astype(int) + 3, 0, 255)  # nearly equal pixels
    for i in (12, 13, 14, 15):
        samples[i]["caption"] = "stock photo"  # on too many
    vectors[16] = np.eye(WIDTH)[-1]  # no domain
    samples[17]["caption"] = "IMG_1234.jpg"
    encoded = [_png(picture) for picture in pictures]
    encoded[18] = encoded[18][:60]  # broken
    encoded[19] = _png(pictures[19][:6, :6])  # small
    _write_tars(folder / "pairs", samples, encoded)
    named = [sample["key"] for sample in samples]
    named[20] = "nobody"  # no embedding
    _write_embeddings(folder / "embeddings", named, vectors)
    np.savez(folder / "domains.npz", **DOMAINS)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _write_tars(folder: Path, samples: list[dict], encoded: list[bytes]) -> None:
    folder.mkdir(parents=True)
    for number in range(TARS):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(number * PER_TAR, (number + 1) * PER_TAR):
                fields = samples[i] | {"license": "CC0-1.0" if i % 3 else "CC-BY-4.0"}
                for suffix, data in (("png", encoded[i]), ("json", json.dumps(fields).encode())):
                    info = tarfile.TarInfo(f"{samples[i]['key']}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    cut = folder / f"{TARS - 1:05d}.tar"
    with tarfile.open(cut) as tar:
        last = tar.getmembers()[-1].offset_data
    cut.write_bytes(cut.read_bytes()[: last + 10])


def _write_embeddings(folder: Path, names: list[str], vectors: np.ndarray) -> None:
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(len(names)), 2)):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors[rows].astype(np.float16))
        table = pa.table({"image_path": [names[i] for i in rows], "caption": ["" for _ in rows]})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
