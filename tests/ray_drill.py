"""A screen on a Ray cluster of two nodes on this machine, one of which is killed half-way; run as a process.

python tests/ray_drill.py INPUT MODEL OUT [--worker MODULE:NAME] [--chunk ROWS] [--kill]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])

import ray
from ray.cluster_utils import Cluster

from dnd.prediction.screen.screen import ScreenConfig, screen


def kill_half_way(cluster: Any, node: Any, out: Path, said: dict[str, Any]) -> None:
    """When the second shard is there, end every process of `node` with SIGKILL."""
    while not (out / "part-00001.parquet").exists():
        time.sleep(0.01)
    said["busy_processors"] = 2 - ray.available_resources().get("CPU", 0)
    cluster.remove_node(node, allow_graceful=False)
    said["killed_after_shards"] = len(list(out.glob("part-*.parquet")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--worker", default="dnd.prediction.screen.workers:make_screener")
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--kill", action="store_true")
    words = parser.parse_args()
    quiet_head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=quiet_head)
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    said: dict[str, Any] = {}
    killer = threading.Thread(target=kill_half_way, args=(cluster, second, words.out, said))
    if words.kill:
        killer.start()
    config = ScreenConfig(chunk=words.chunk, top=5)
    done = screen([words.input], words.model, words.out, config, ray=cluster.address, worker=words.worker)
    if words.kill:
        killer.join()
    cluster.shutdown()
    print(json.dumps({**said, "rows": done.rows, "shards": done.shards, "seconds": done.seconds}))


if __name__ == "__main__":
    main()
