"""Random events on a cluster in this process, and then: is what is kept what counting anew gives?"""

from __future__ import annotations

import random
from collections.abc import Sequence

from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.deciding import holding_of
from deviceplugin.scheduler.filtering import Found, choose, request
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.pods import pod_record
from deviceplugin.testing.clusters import Plan, arrivals, generate
from deviceplugin.vendor.scheduling import Policy, SchedulingBackend

LOOK_EVERY = 7
"""Events between two looks at views and rooms, so that what is kept is used while it changes."""


def drift(plan: Plan, backends: Sequence[SchedulingBackend], events: int) -> int:
    """Nodes and pods that are counted wrongly after so many events: pods are decided about, seen
    bound, seen twice, forgotten and gone, nodes are gone and come back, in any order.
    """
    dice = random.Random(plan.seed)
    by_word = {backend.keys.common_word: backend for backend in backends}
    cluster = Cluster(by_word)
    made = generate(plan, backends)
    nodes = [node_record(item) for item in made.nodes]
    pods = [record for item in made.pods if (record := pod_record(item)) is not None]
    waiting = arrivals(plan, backends)
    for node in nodes:
        cluster.set_node(node)
    for number in range(events):
        pod, node = dice.choice(pods), dice.choice(nodes)
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                cluster.set_pod(pod)
            case 4 | 5:
                cluster.drop_pod(pod.uid)
            case 6:
                cluster.forget(pod.uid)
            case 7 if dice.random() < 0.1:
                cluster.drop_node(node.name)
            case 7 | 8:
                cluster.set_node(node)
            case _:
                spec = pod_spec(next(waiting))
                wanted = request(cluster, spec, Policy.BINPACK, Policy.SPREAD)
                if isinstance(found := choose(cluster, wanted, cluster.names()), Found):
                    cluster.assume(holding_of(wanted, found, cluster))
        if number % LOOK_EVERY == 0:
            cluster.room(node.name)
    wrong = sum(cluster.drift(name) for name in cluster.names())
    return wrong + sum(cluster.uncounted(each.uid) for each in tuple(cluster.holdings()))
