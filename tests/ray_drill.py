"""Runs of `screen`, `prepare` and `embed` on a Ray cluster of two nodes on this machine; the second is killed in each.

python tests/ray_drill.py PLAN.json: a list of objects with the `verb`, its arguments, and `kill_at`, the number of
results after which every process of the second node is ended by SIGKILL. Prints what was seen of each as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])

import ray
from ray.cluster_utils import Cluster

from dnd.common.cluster import RayCluster
from dnd.common.workers import Work
from dnd.prediction import files
from dnd.prediction.embedder import ClusterEmbedder
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def killing(cluster: Any, node: Any, kill_at: int, said: dict[str, Any]) -> Callable[..., Generator[Any, None, None]]:
    """`RayCluster.run` that loses `node` after so many results, as soon as both nodes are at work."""
    plain = RayCluster.run

    def run(self: RayCluster, work: Work, items: Iterable[Any]) -> Generator[Any, None, None]:
        for number, result in enumerate(plain(self, work, items), 1):
            if number >= kill_at and "killed_after" not in said and ray.available_resources().get("CPU", 0) == 0:
                said["killed_after"] = number
                cluster.remove_node(node, allow_graceful=False)
            said["results"] = number
            yield result

    return run


def carry_out(step: dict[str, Any], address: str) -> None:
    match step["verb"]:
        case "screen":
            config = ScreenConfig(chunk=4, top=5)
            worker = {"worker": step["worker"]} if "worker" in step else {}
            screen([step["input"]], step["model"], step["out"], config, ray=address, **worker)
        case "prepare":
            prepare([step["input"]], step["out"], PrepareConfig(**step["settings"]), ray=address)
        case "embed":
            files.CHUNK_ROWS = 16
            embedder = ClusterEmbedder.at(address, step["encoder"], pooling=None, device="auto", jobs=1)
            files.embed_file(embedder, step["input"], step["out"])


def main() -> None:
    plan, plain = json.loads(Path(sys.argv[1]).read_text()), RayCluster.run
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for step in plan:
        step["said"] = {}
        second = cluster.add_node(**NODE)
        RayCluster.run = killing(cluster, second, step["kill_at"], step["said"])  # type: ignore[method-assign]
        carry_out(step, cluster.address)
        RayCluster.run = plain  # type: ignore[method-assign]
    cluster.shutdown()
    print(json.dumps([step["said"] for step in plan]))


if __name__ == "__main__":
    main()
