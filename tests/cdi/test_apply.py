"""Injection as a runtime does it, with the results measured on the reference (cdi.md 3)."""

from __future__ import annotations

import copy
import errno
import os
import stat as modes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.cdi import (
    Cache,
    CDIError,
    ContainerEdits,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    UnresolvableError,
    apply,
    apply_edits,
    combine,
    load_directories,
    resolve,
)

Put = Callable[..., Path]
NULL = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
RULE = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}


def device(name: str) -> str:
    return f"vendor.com/device={name}"


def no_host(path: str) -> os.stat_result:
    """A host without device nodes."""
    raise FileNotFoundError(errno.ENOENT, "no such file", path)


def host(mode: int, major: int = 1, minor: int = 3) -> Callable[[str], os.stat_result]:
    """A host on which every path is such a node."""

    def stat(path: str) -> os.stat_result:
        fields = [mode, 0, 0, 1, 0, 0, 0, 0, 0, 0]
        return os.stat_result(fields, {"st_rdev": os.makedev(major, minor)})

    return stat


# --- resolving ---


def test_all_unknown_devices_are_named_and_nothing_is_injected(tmp_path: Path, put: Put) -> None:
    put("a.json", {"dev1": {"env": ["A=1"]}})
    cache = load_directories([tmp_path])
    oci = {"process": {"env": ["A=pod"]}}
    with pytest.raises(UnresolvableError) as caught:
        apply(oci, [device("a"), device("dev1"), device("b")], cache)
    assert str(caught.value) == (
        "unresolvable CDI devices vendor.com/device=a, vendor.com/device=b"
    )
    assert caught.value.names == (device("a"), device("b"))
    assert oci == {"process": {"env": ["A=pod"]}}


def test_a_files_own_edits_come_once_before_the_first_of_its_devices(
    tmp_path: Path, put: Put
) -> None:
    put(
        "a.json", {"a1": {"env": ["A1=1"]}, "a2": {"env": ["A2=1"]}}, containerEdits={"env": ["A="]}
    )
    put("b.json", {"b1": {"env": ["B1=1"]}}, containerEdits={"env": ["B="]})
    put("c.json", {"c1": {"env": ["C1=1"]}}, containerEdits={"env": ["C="]})
    cache = load_directories([tmp_path])
    edits = resolve([device("a2"), device("b1"), device("a1")], cache)
    assert combine(edits).env == ("A=", "A2=1", "B=", "B1=1", "A1=1")


def test_a_later_variable_replaces_an_earlier_edit_in_place_and_is_appended_to_the_pods(
    tmp_path: Path, put: Put
) -> None:
    devices = {"dx": {"env": ["A=x", "C=1"]}, "dy": {"env": ["A=y"]}}
    put("a.json", devices, containerEdits={"env": ["C=1"]})
    names = [device("dy"), device("dx"), device("dy")]
    result = apply({"process": {"env": ["A=pod"]}}, names, load_directories([tmp_path]))
    assert result["process"]["env"] == ["A=pod", "C=1", "A=y"]


def test_hooks_of_several_devices_keep_their_order(tmp_path: Path, put: Put) -> None:
    def hooked(path: str) -> dict[str, Any]:
        return {"hooks": [{"hookName": "createContainer", "path": path}]}

    put("a.json", {"a": hooked("/a"), "b": hooked("/b")}, containerEdits=hooked("/common"))
    result = apply({}, [device("b"), device("a")], load_directories([tmp_path]))
    assert [hook["path"] for hook in result["hooks"]["createContainer"]] == ["/common", "/b", "/a"]


# --- merging ---


def test_merging_nothing_gives_nothing() -> None:
    assert combine([]) == combine([ContainerEdits(), ContainerEdits()]) == ContainerEdits()


def test_merging_keeps_everything_in_order_and_does_not_deduplicate() -> None:
    one = ContainerEdits(
        env=("A=1", "B=1"),
        device_nodes=(DeviceNode("/dev/a"),),
        net_devices=(NetDevice("e1", "n1"),),
        hooks=(Hook("prestart", "/a"),),
        mounts=(Mount("/a", "/a"),),
        intel_rdt=IntelRdt("one"),
        additional_gids=(5, 6),
    )
    two = ContainerEdits(("A=2",), intel_rdt=IntelRdt("two"), additional_gids=(5,))
    assert combine([one]) == combine([ContainerEdits(), one]) == combine([one, ContainerEdits()])
    merged = combine([one, two, one])
    assert merged.env == ("A=1", "B=1")
    assert combine([one, two]).env == ("A=2", "B=1")
    assert merged.device_nodes == one.device_nodes * 2
    assert merged.mounts == one.mounts * 2
    assert merged.hooks == one.hooks * 2
    assert merged.additional_gids == (5, 6, 5, 5, 6)
    assert combine([one, two]).intel_rdt == IntelRdt("two")


# --- applying ---


def test_nothing_into_nothing_stays_nothing() -> None:
    assert apply_edits({}, ContainerEdits(), no_host) == {}
    assert apply_edits({}, ContainerEdits(additional_gids=(0,)), no_host) == {}


def test_the_given_specification_stays_as_it_is() -> None:
    oci: dict[str, Any] = {
        "process": {"env": ["A=1"], "user": {"additionalGids": [1]}},
        "linux": {"devices": [dict(NULL)], "resources": {"devices": [dict(RULE)]}},
        "mounts": [{"destination": "/a/b", "source": "/x"}],
        "hooks": {"prestart": [{"path": "/a"}]},
    }
    before = copy.deepcopy(oci)
    edits = ContainerEdits(
        ("B=2",),
        (DeviceNode("/dev/null", type="c", major=9),),
        (NetDevice("e", "n"),),
        (Hook("prestart", "/b"),),
        (Mount("/y", "/a"),),
        IntelRdt("x"),
        (2,),
    )
    assert apply_edits(oci, edits, no_host) != before
    assert oci == before


def test_a_variable_goes_into_an_empty_specification() -> None:
    result = apply_edits({}, ContainerEdits(env=("A=b",)), no_host)
    assert result == {"process": {"env": ["A=b"]}}


def test_a_device_goes_in_with_its_cgroup_rule() -> None:
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/null", type="c", major=1, minor=3),))
    assert apply_edits({}, edits, no_host) == {
        "linux": {"devices": [NULL], "resources": {"devices": [RULE]}}
    }


def test_parts_that_are_null_count_as_absent() -> None:
    edits = ContainerEdits(
        device_nodes=(DeviceNode("/dev/null", type="c", major=1, minor=3),),
        mounts=(Mount("/a", "/b"),),
        additional_gids=(5,),
    )
    oci = {"linux": None, "mounts": None, "process": {"user": None}}
    assert apply_edits(oci, edits, no_host) == {
        "linux": {"devices": [NULL], "resources": {"devices": [RULE]}},
        "mounts": [{"destination": "/b", "source": "/a"}],
        "process": {"user": {"additionalGids": [5]}},
    }


def test_what_a_node_leaves_open_is_read_from_the_host() -> None:
    asked = []

    def stat(path: str) -> os.stat_result:
        asked.append(path)
        return host(modes.S_IFCHR | 0o666)(path)

    edits = ContainerEdits(
        device_nodes=(DeviceNode("/dev/null"), DeviceNode("/dev/x", "/real/null", permissions="r"))
    )
    result = apply_edits({}, edits, stat)
    assert asked == ["/dev/null", "/real/null"]
    assert result["linux"]["devices"] == [
        {**NULL, "fileMode": 0o666},
        {**NULL, "path": "/dev/x", "fileMode": 0o666},
    ]
    assert result["linux"]["resources"]["devices"] == [RULE, {**RULE, "access": "r"}]


def test_the_null_device_of_this_machine_is_filled_in() -> None:
    found = os.lstat("/dev/null")
    if not modes.S_ISCHR(found.st_mode):
        pytest.skip("no device nodes here")
    result = apply_edits({}, ContainerEdits(device_nodes=(DeviceNode("/dev/null"),)))
    mode = modes.S_IMODE(found.st_mode)
    assert result["linux"]["devices"] == [{**NULL, "fileMode": mode}]


def test_what_a_node_states_is_not_overwritten_by_the_host() -> None:
    nodes = (
        DeviceNode("/dev/a", major=7, minor=8, file_mode=0o600),
        DeviceNode("/dev/b", type="c", file_mode=0o640),
    )
    stat = host(modes.S_IFCHR | 0o666)
    result = apply_edits({}, ContainerEdits(device_nodes=nodes), stat)["linux"]["devices"]
    keys = ("type", "major", "minor", "fileMode")
    assert [tuple(one[key] for key in keys) for one in result] == [
        ("c", 7, 8, 0o600),
        ("c", 1, 3, 0o640),
    ]


def test_block_and_fifo_nodes_of_the_host_are_recognised() -> None:
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/x"),))
    block = apply_edits({}, edits, host(modes.S_IFBLK | 0o660, 8, 1))
    assert block["linux"]["devices"][0]["type"] == "b"
    assert block["linux"]["resources"]["devices"][0]["type"] == "b"
    fifo = apply_edits({}, edits, host(modes.S_IFIFO | 0o600, 0, 0))
    assert fifo["linux"]["devices"][0]["type"] == "p"
    assert "resources" not in fifo["linux"]


def test_a_complete_node_or_a_fifo_needs_no_node_on_the_host() -> None:
    nodes = (
        DeviceNode("/dev/a", type="c", major=1),
        DeviceNode("/dev/b", type="u", major=1),
        DeviceNode("/dev/c", type="p"),
    )
    result = apply_edits({}, ContainerEdits(device_nodes=nodes), no_host)
    assert [one["type"] for one in result["linux"]["devices"]] == ["c", "u", "p"]
    assert len(result["linux"]["resources"]["devices"]) == 1


def test_of_a_complete_node_only_the_mode_is_read_where_the_host_has_it() -> None:
    nodes = (
        DeviceNode("/dev/a", type="b", major=7, minor=8),
        DeviceNode("/dev/b", type="p"),
        DeviceNode("/dev/c", type="c", major=7, file_mode=0o600),
    )
    stat = host(modes.S_IFCHR | 0o640)
    result = apply_edits({}, ContainerEdits(device_nodes=nodes), stat)["linux"]["devices"]
    keys = ("type", "major", "minor", "fileMode")
    assert [tuple(one[key] for key in keys) for one in result] == [
        ("b", 7, 8, 0o640),
        ("p", 0, 0, 0o640),
        ("c", 7, 0, 0o600),
    ]


def test_of_mounts_stacked_at_one_path_the_first_is_replaced() -> None:
    oci = {"mounts": [{"destination": "/a", "source": str(i)} for i in range(2)]}
    result = apply_edits(oci, ContainerEdits(mounts=(Mount("/x", "/a"),)), no_host)["mounts"]
    assert [mount["source"] for mount in result] == ["1", "/x"]


def test_a_missing_host_node_fails_with_the_message_of_runtimes() -> None:
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/x", "/real/x"),))
    with pytest.raises(CDIError) as caught:
        apply_edits({}, edits, no_host)
    assert str(caught.value) == (
        'failed to stat CDI host device "/real/x": no such file or directory'
    )


def test_a_symbolic_link_or_file_on_the_host_is_no_device_node(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (link, tmp_path):
        edits = ContainerEdits(device_nodes=(DeviceNode("/dev/x", str(path)),))
        with pytest.raises(CDIError, match="not a device node"):
            apply_edits({}, edits)


def test_another_type_than_the_hosts_fails() -> None:
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/x", type="b"),))
    with pytest.raises(CDIError, match='"/dev/x" has type b, "/dev/x" has c'):
        apply_edits({}, edits, host(modes.S_IFCHR))


def test_owners_default_to_the_process_unless_it_is_root() -> None:
    nodes = (
        DeviceNode("/dev/a", type="c", major=1),
        DeviceNode("/dev/b", type="c", major=1, uid=0, gid=7),
    )
    edits = ContainerEdits(device_nodes=nodes)
    for user, first in (({"uid": 5, "gid": 6}, (5, 6)), ({"uid": 0, "gid": 0}, (None, None))):
        result = apply_edits({"process": {"user": user}}, edits, no_host)["linux"]["devices"]
        assert (result[0].get("uid"), result[0].get("gid")) == first
        assert (result[1]["uid"], result[1]["gid"]) == (0, 7)


def test_a_device_at_the_same_path_is_replaced() -> None:
    oci = {"linux": {"devices": [{**NULL, "major": 9}, {**NULL, "path": "/dev/other"}]}}
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/null", type="c", major=1, minor=3),))
    result = apply_edits(oci, edits, no_host)["linux"]["devices"]
    assert result == [{**NULL, "path": "/dev/other"}, NULL]


def test_a_mount_replaces_the_one_at_its_path_and_parents_come_first() -> None:
    oci = {"mounts": [{"destination": "/p/q", "source": "old"}, {"destination": "/z"}]}
    mounts = (Mount("/c", "/a/b/c", ("ro",), "bind"), Mount("/hy", "/p/q"), Mount("/hx", "/a"))
    result = apply_edits(oci, ContainerEdits(mounts=mounts), no_host)["mounts"]
    assert result == [
        {"destination": "/z"},
        {"destination": "/a", "source": "/hx"},
        {"destination": "/p/q", "source": "/hy"},
        {"destination": "/a/b/c", "source": "/c", "type": "bind", "options": ["ro"]},
    ]


def test_existing_mounts_of_equal_depth_keep_their_order_and_come_first() -> None:
    existing = [
        {"destination": path} for path in ("/z", "/", "/a", "/m//", "//s", "///t", "/b/c", "/a/b")
    ]
    result = apply_edits(
        {"mounts": existing},
        ContainerEdits(mounts=(Mount("/x", "/c/d"), Mount("/x", "/c"))),
        no_host,
    )
    paths = [mount["destination"] for mount in result["mounts"]]
    assert paths == ["/z", "/", "/a", "/m//", "//s", "///t", "/c", "/b/c", "/a/b", "/c/d"]


@pytest.mark.parametrize(
    "name",
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
)
def test_a_hook_is_appended_to_those_of_its_kind(name: str) -> None:
    oci = {"hooks": {name: [{"path": "/first"}]}}
    full = Hook(name, "/bin/x", ("x", "y"), ("A=b",), 5)
    result = apply_edits(oci, ContainerEdits(hooks=(Hook(name, "/bin/y"), full)), no_host)
    assert result["hooks"] == {
        name: [
            {"path": "/first"},
            {"path": "/bin/y"},
            {"path": "/bin/x", "args": ["x", "y"], "env": ["A=b"], "timeout": 5},
        ]
    }


def test_resource_director_settings_replace_what_was_there() -> None:
    edits = ContainerEdits(intel_rdt=IntelRdt("new", schemata=("L3:0=f",), enable_monitoring=True))
    expected = {"closID": "new", "schemata": ["L3:0=f"], "enableMonitoring": True}
    for linux in ({}, {"intelRdt": {"closID": "old", "l3CacheSchema": "x"}}):
        assert apply_edits({"linux": linux}, edits, no_host)["linux"]["intelRdt"] == expected


def test_network_devices_stand_under_their_host_name_and_replace() -> None:
    edits = ContainerEdits(net_devices=(NetDevice("eth1", "net0"), NetDevice("eth2", "net1")))
    oci = {"linux": {"netDevices": {"eth1": {"name": "old"}, "eth9": {"name": "kept"}}}}
    for given, more in (({}, {}), (oci, {"eth9": {"name": "kept"}})):
        result = apply_edits(given, edits, no_host)["linux"]["netDevices"]
        assert result == {"eth1": {"name": "net0"}, "eth2": {"name": "net1"}, **more}


def test_groups_are_added_once_and_never_zero() -> None:
    oci = {"process": {"user": {"uid": 1, "additionalGids": [5]}}}
    result = apply_edits(oci, ContainerEdits(additional_gids=(0, 7, 5, 7, 8)), no_host)
    assert result["process"]["user"] == {"uid": 1, "additionalGids": [5, 7, 8]}


def test_a_cache_is_applied_again_and_again_alike(tmp_path: Path, put: Put) -> None:
    put("a.json", {"a": {"env": ["A=1"], "mounts": [{"hostPath": "/a", "containerPath": "/b"}]}})
    cache: Cache = load_directories([tmp_path])
    first = apply({}, [device("a")], cache)
    assert apply({}, [device("a")], cache) == first
