"""A simulation's node, which Ray starts, has time to come up on a busy machine."""

from importlib.util import find_spec
from pathlib import Path

from cli.flower import flower_environment

WAIT = "RAY_raylet_start_wait_time_s"


def test_ray_is_told_to_wait_two_minutes_for_its_node_by_a_name_that_it_reads(tmp_path: Path) -> None:
    assert flower_environment(tmp_path).get(WAIT) == "120"
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    # Of a name that it does not know, as after an upgrade, it would say nothing.
    assert WAIT.encode() in Path(ray.origin).with_name("_raylet.so").read_bytes()
