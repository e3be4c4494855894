"""Run by test_pretrained_memory.py: loads a T5 folder onto eight devices and prints what it took, as JSON.

JAX_NUM_CPU_DEVICES=8 python tests/load_sharded_t5.py FOLDER
"""

import gc
import json
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from imagen_jax import partition
from imagen_jax.nn.t5 import T5Encoder
from imagen_jax.pretrained import load_t5, t5_config


def resident() -> int:
    """Bytes of memory that this process takes now, mapped files among them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def main(folder: Path) -> None:
    mesh = partition.make_mesh(dict(data=1, fsdp=-1, tensor=1))
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    encoder = T5Encoder(t5_config(folder))
    abstract = jax.eval_shape(encoder.init, jax.random.key(0), tokens, jax.ShapeDtypeStruct((1, 4), bool))["params"]
    places = partition.shardings(abstract, mesh)
    jax.block_until_ready(jax.device_put(jnp.zeros(8), partition.batch_sharding(mesh)))  # the backend is up
    gc.collect()
    before, peak, done = resident(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    params = jax.block_until_ready(load_t5(folder, abstract, places))
    done.set()
    watcher.join()
    leaves = jax.tree.leaves(params)
    print(
        json.dumps(
            dict(
                devices=len(jax.devices()),
                loaded=sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards),
                whole=sum(leaf.nbytes for leaf in leaves),
                share=max(sum(leaf.addressable_shards[d].data.nbytes for leaf in leaves) for d in range(8)),
                beyond=peak[0] - before - sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards),
            )
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
