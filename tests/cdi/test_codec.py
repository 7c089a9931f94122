"""The text of a specification: round trip, what is left out, strict reading (cdi.md 1.1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.cdi import (
    CDIError,
    ContainerEdits,
    Device,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    Spec,
    device_name_for,
    dumps,
    loads,
    required_version,
    to_dict,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = TEXT.map(lambda text: f"/{text}")
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9]{1,8}", fullmatch=True)
UINT32 = st.integers(0, 2**32 - 1)
ENV = st.lists(st.builds("{}={}".format, WORDS, TEXT), max_size=3).map(tuple)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
ANNOTATIONS = st.dictionaries(WORDS, TEXT, max_size=2)
OPTIONAL_ID = st.none() | UINT32
NODES = st.builds(
    DeviceNode,
    path=PATHS,
    host_path=st.just("") | PATHS,
    type=st.sampled_from(["", "b", "c", "u", "p"]),
    major=st.integers(0, 2**63 - 1),
    minor=st.integers(0, 2**63 - 1),
    file_mode=st.none() | st.integers(1, 0o7777),
    permissions=st.sampled_from(["", "r", "rw", "rwm", "m"]),
    uid=OPTIONAL_ID,
    gid=OPTIONAL_ID,
)
HOOKS = st.builds(
    Hook,
    hook_name=st.sampled_from(["prestart", "createContainer", "poststop"]),
    path=PATHS,
    args=TEXTS,
    env=ENV,
    timeout=st.none() | st.integers(1, 2**63 - 1),
)
RDT = st.builds(
    IntelRdt,
    clos_id=st.sampled_from(["", "/", "class"]),
    l3_cache_schema=TEXT,
    mem_bw_schema=TEXT,
    schemata=TEXTS,
    enable_monitoring=st.booleans(),
)
EDITS = st.builds(
    ContainerEdits,
    env=ENV,
    device_nodes=st.lists(NODES, max_size=2).map(tuple),
    net_devices=st.lists(st.builds(NetDevice, WORDS, WORDS), max_size=1).map(tuple),
    hooks=st.lists(HOOKS, max_size=2).map(tuple),
    mounts=st.lists(st.builds(Mount, PATHS, PATHS, TEXTS, TEXT), max_size=2).map(tuple),
    intel_rdt=st.none() | RDT,
    additional_gids=st.lists(UINT32, max_size=3).map(tuple),
)
DEVICES = st.builds(
    Device,
    name=TEXT.map(device_name_for).filter(lambda name: len(name) <= 63),
    container_edits=EDITS.filter(bool),
    annotations=ANNOTATIONS,
)
SPECS = st.builds(
    Spec,
    kind=st.builds("{}/{}".format, WORDS, WORDS),
    devices=st.lists(DEVICES, min_size=1, max_size=3, unique_by=lambda d: d.name).map(tuple),
    container_edits=EDITS,
    annotations=ANNOTATIONS,
)


@given(SPECS)
def test_what_is_written_reads_back_equal(spec: Spec) -> None:
    text = dumps(spec)
    read = loads(text)
    assert (read.kind, read.devices, read.container_edits, read.annotations) == (
        (spec.kind, spec.devices, spec.container_edits, spec.annotations)
    )
    assert read.cdi_version == required_version(spec)
    assert dumps(read) == text


@given(SPECS)
def test_json_reads_the_same_through_the_yaml_parser(spec: Spec) -> None:
    text = dumps(spec)
    assert loads(text, yaml=True) == loads(text)


@pytest.mark.parametrize(
    "text", ["\U0001f600", "\x7f\x85\x9f", "\u2028\u2029", "\ufeff\uffff", "\\ud83d"]
)
def test_every_unicode_text_survives_both_parsers(text: str, spec: Callable[..., Spec]) -> None:
    written = dumps(spec("dev", annotations={"key": text}))
    for as_yaml in (False, True):
        assert loads(written, yaml=as_yaml).annotations["key"] == text


def test_a_path_that_is_no_unicode_is_refused() -> None:
    edits = ContainerEdits(mounts=(Mount("/\udcff", "/x"),))
    with pytest.raises(CDIError, match="not Unicode"):
        dumps(Spec("ab.com/gpu", (Device("d", edits),)))


@given(SPECS)
def test_quoted_yaml_reads_like_json(spec: Spec) -> None:
    text = yaml.safe_dump(to_dict(spec), default_style='"', allow_unicode=False, sort_keys=False)
    # The style quotes numbers and booleans too, with their type before them.
    assert loads(text, yaml=True) == loads(dumps(spec))


@given(SPECS)
def test_what_is_empty_is_left_out(spec: Spec) -> None:
    def empties(data: Any) -> list[Any]:
        if isinstance(data, dict):
            found = [
                value for key, value in data.items() if key != "intelRdt" and value in ({}, [])
            ]
            return found + [one for value in data.values() for one in empties(value)]
        if isinstance(data, list):
            return [one for value in data for one in empties(value)]
        return [data] if data is None else []

    assert empties(to_dict(spec)) == []


def test_the_minimal_specification_has_three_keys(spec: Callable[..., Spec]) -> None:
    assert json.loads(dumps(spec("dev"))) == {
        "cdiVersion": "0.3.0",
        "kind": "vendor.com/device",
        "devices": [{"name": "dev", "containerEdits": {"env": ["NAME=dev"]}}],
    }


def test_every_key_has_its_name_of_the_specification() -> None:
    edits = ContainerEdits(
        env=("A=b",),
        device_nodes=(DeviceNode("/dev/x", "/real/x", "c", 1, 2, 0o666, "rw", 0, 0),),
        net_devices=(NetDevice("eth1", "net0"),),
        hooks=(Hook("prestart", "/bin/x", ("x", "y"), ("C=d",), 5),),
        mounts=(Mount("/a", "/b", ("ro",), "bind"),),
        intel_rdt=IntelRdt("id", "l3", "mb", ("s",), enable_monitoring=True),
        additional_gids=(5,),
    )
    data = to_dict(Spec("ab.com/gpu", (Device("d", edits, {"k": "v"}),), edits, {"k": "v"}))
    expected = {
        "env": ["A=b"],
        "deviceNodes": [
            {
                "path": "/dev/x",
                "hostPath": "/real/x",
                "type": "c",
                "major": 1,
                "minor": 2,
                "fileMode": 438,
                "permissions": "rw",
                "uid": 0,
                "gid": 0,
            }
        ],
        "netDevices": [{"hostInterfaceName": "eth1", "name": "net0"}],
        "hooks": [
            {
                "hookName": "prestart",
                "path": "/bin/x",
                "args": ["x", "y"],
                "env": ["C=d"],
                "timeout": 5,
            }
        ],
        "mounts": [
            {"hostPath": "/a", "containerPath": "/b", "options": ["ro"], "type": "bind"},
        ],
        "intelRdt": {
            "closID": "id",
            "l3CacheSchema": "l3",
            "memBwSchema": "mb",
            "schemata": ["s"],
            "enableMonitoring": True,
        },
        "additionalGids": [5],
    }
    assert data == {
        "cdiVersion": "1.1.0",
        "kind": "ab.com/gpu",
        "annotations": {"k": "v"},
        "devices": [{"name": "d", "annotations": {"k": "v"}, "containerEdits": expected}],
        "containerEdits": expected,
    }


def test_a_file_mode_of_zero_is_never_emitted() -> None:
    edits = ContainerEdits(device_nodes=(DeviceNode("/dev/x", file_mode=0),))
    with pytest.raises(CDIError, match=r"deviceNodes\[0\].fileMode '0'"):
        dumps(Spec("ab.com/gpu", (Device("d", edits),)))


def test_an_invalid_specification_has_no_text(spec: Callable[..., Spec]) -> None:
    for write in (dumps, to_dict):
        with pytest.raises(CDIError, match="no devices"):
            write(spec())


# --- reading ---


def text_of(data: dict[str, Any] | None = None, **changes: Any) -> str:
    """A valid file with these fields changed; None leaves one out."""
    plain = {
        "cdiVersion": "1.1.0",
        "kind": "vendor.com/device",
        "devices": [{"name": "dev", "containerEdits": data or {"env": ["A=b"]}}],
    }
    return json.dumps({key: v for key, v in {**plain, **changes}.items() if v is not None})


@pytest.mark.parametrize("text", ["", "  \n", "{", "[]", "null", "hello", "{}", '{"a":1} trailing'])
@pytest.mark.parametrize("as_yaml", [False, True])
def test_an_empty_or_unparsable_text_is_refused(text: str, as_yaml: bool) -> None:
    with pytest.raises(CDIError, match=r"^/etc/cdi/x"):
        loads(text, source="/etc/cdi/x", yaml=as_yaml)


@pytest.mark.parametrize("key", ["cdiVersion", "kind", "devices"])
@pytest.mark.parametrize("empty", [None, "null", "empty"])
def test_a_missing_field_is_refused_by_name(key: str, empty: str | None) -> None:
    data = json.loads(text_of())
    if empty is None:
        del data[key]
    else:
        data[key] = None if empty == "null" else type(data[key])()
    with pytest.raises(CDIError) as caught:
        loads(json.dumps(data))
    assert [problem.field for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (text_of(container_edits={}), "container_edits"),
        (text_of(CdiVersion="1.1.0"), "CdiVersion"),
        (text_of({"envs": []}), "devices[0].containerEdits.envs"),
        (text_of({"mounts": [{"source": "/a"}]}), "devices[0].containerEdits.mounts[0].source"),
        (
            text_of({"intelRdt": {"enableCMT": True}}),
            "devices[0].containerEdits.intelRdt.enableCMT",
        ),
    ],
)
def test_an_unknown_key_is_refused_by_its_place(text: str, field: str) -> None:
    with pytest.raises(CDIError) as caught:
        loads(text)
    assert (caught.value.problems[0].field, caught.value.problems[0].rule) == (
        (field, "unknown field")
    )


@pytest.mark.parametrize("as_yaml", [False, True])
def test_a_doubled_key_is_refused_by_name(as_yaml: bool) -> None:
    text = text_of().replace('"name": "dev"', '"name": "dev", "name": "dev"')
    with pytest.raises(CDIError, match="the key name stands twice"):
        loads(text, yaml=as_yaml)


@pytest.mark.parametrize(
    ("edits", "field", "wanted"),
    [
        ({"env": "A=b"}, "env", "a list"),
        ({"env": [1]}, "env[0]", "text"),
        ({"env": [None]}, "env[0]", "text"),
        ({"mounts": {}}, "mounts", "a list"),
        ({"mounts": [None]}, "mounts[0]", "an object"),
        ({"mounts": [7]}, "mounts[0]", "an object"),
        ({"mounts": 0}, "mounts", "a list"),
        ({"deviceNodes": [{"path": "/x", "major": "1"}]}, "deviceNodes[0].major", "a whole number"),
        ({"deviceNodes": [{"path": "/x", "major": 1.0}]}, "deviceNodes[0].major", "a whole number"),
        ({"deviceNodes": [{"path": "/x", "major": True}]}, "deviceNodes[0].major", "a whole"),
        ({"deviceNodes": [{"major": 1}]}, "deviceNodes[0].path", "missing"),
        ({"intelRdt": {"enableMonitoring": "yes"}}, "intelRdt.enableMonitoring", "true or false"),
        ({"additionalGids": [True]}, "additionalGids[0]", "a whole number"),
        ({"additionalGids": [-1]}, "additionalGids[0]", "must be from 0 to 4294967295"),
        ({"additionalGids": [2**32]}, "additionalGids[0]", "must be from 0 to 4294967295"),
        (
            {"deviceNodes": [{"path": "/x", "uid": 2**32}]},
            "deviceNodes[0].uid",
            "must be from 0 to 4294967295",
        ),
        ({"deviceNodes": [{"path": "/x", "major": 2**63}]}, "deviceNodes[0].major", "must be from"),
    ],
)
def test_a_value_of_another_type_is_refused_by_place_and_wanted_type(
    edits: dict[str, Any], field: str, wanted: str
) -> None:
    with pytest.raises(CDIError) as caught:
        loads(text_of(edits), source="file.json")
    (problem,) = caught.value.problems
    assert (problem.source, problem.field) == ("file.json", f"devices[0].containerEdits.{field}")
    assert wanted in problem.rule


def test_all_wrong_shapes_are_told_at_once() -> None:
    text = text_of({"env": [1], "x": 2}, kind=3, annotations={"a": 4})
    with pytest.raises(CDIError) as caught:
        loads(text)
    assert {problem.field for problem in caught.value.problems} == {
        "kind",
        "annotations.a",
        "devices[0].containerEdits.env[0]",
        "devices[0].containerEdits.x",
    }


def test_null_counts_as_absent() -> None:
    text = text_of({"env": ["A=b"], "mounts": None, "intelRdt": None}, containerEdits=None)
    assert loads(text) == loads(text_of())


def test_explicitly_empty_common_edits_are_accepted() -> None:
    assert loads(text_of(containerEdits={})) == loads(text_of())


def test_hostile_nesting_and_numbers_are_errors_and_not_crashes() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "a: &x [*x]", "? [a]\n: b"):
        for as_yaml in (False, True):
            if len(text) < 50_000 or not as_yaml:
                with pytest.raises(CDIError):
                    loads(text, yaml=as_yaml)


@given(st.text() | st.text("{}[]:,\"'-&*!<>?|# \nacdeinrsv01~"))
@example("0b_")
@example("!!python/object/apply:os.system [true]")
@example("<<: 1")
@example("? {}\n: 1")
@example("\x07")
def test_any_text_is_a_specification_or_a_cdi_error(text: str) -> None:
    for as_yaml in (False, True):
        with pytest.raises(CDIError):
            loads(text, yaml=as_yaml)


# --- versions that a reader knows ---


def test_a_reader_refuses_what_is_newer_than_itself_before_anything_else() -> None:
    text = text_of({"env": [], "fieldOfTheFuture": 1}, cdiVersion="0.6.0")
    with pytest.raises(CDIError) as caught:
        loads(text, max_version="0.5.0")
    assert [str(problem) for problem in caught.value.problems] == [
        "cdiVersion '0.6.0': this reader knows versions up to 0.5.0"
    ]


def test_containerd_1_7_0_reads_what_we_write_of_ordinary_devices() -> None:
    node = DeviceNode("/dev/nvidia0", "/run/driver/dev/nvidia0", "c", 195, 0, 0o666, "rwm", 0, 44)
    mount = Mount("/usr/local/vgpu", "/usr/local/vgpu", ("ro", "rbind"), "bind")
    hook = Hook("createContainer", "/usr/bin/hook", ("hook", "x"), ("A=b",), 5)
    edits = ContainerEdits(("A=b",), (node,), hooks=(hook,), mounts=(mount,))
    for name in ("0", "GPU-1::0", device_name_for("MIG-GPU-1/1/2")):
        spec = Spec("k8s.example.com/gpu", (Device(name, edits),), edits)
        assert loads(dumps(spec), max_version="0.5.0").devices == spec.devices


# --- YAML ---

AS_NVIDIA_CTK_WRITES = """\
---
cdiVersion: 0.5.0
kind: example.com/device
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              hostPath: /R/dev/nvidia0
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              hostPath: /R/dev/nvidia0
containerEdits:
    env:
        - NVIDIA_CTK_LIBCUDA_DIR=/lib
        - NVIDIA_VISIBLE_DEVICES=void
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - update-ldcache
          env:
            - NVIDIA_CTK_DEBUG=false
    mounts:
        - hostPath: /R/lib/libcuda.so.999.88.77
          containerPath: /lib/libcuda.so.999.88.77
          options: [ro, nosuid, nodev, rbind, rprivate]
"""


def test_block_style_yaml_is_read() -> None:
    spec = loads(AS_NVIDIA_CTK_WRITES, yaml=True)
    node = DeviceNode("/dev/nvidia0", "/R/dev/nvidia0")
    both = ContainerEdits(device_nodes=(node,))
    assert spec.devices == (Device("0", both), Device("all", both))
    assert spec.container_edits.env[1] == "NVIDIA_VISIBLE_DEVICES=void"
    assert spec.container_edits.mounts[0].options[-1] == "rprivate"
    assert required_version(spec) == spec.cdi_version == "0.5.0"


def yaml_named(name: str) -> str:
    return (
        "cdiVersion: 0.6.0\nkind: vendor.com/device\n"
        f"devices:\n- name: {name}\n  containerEdits: {{env: [A=b]}}\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("y", "n", "on", "Off", "Yes", "NO", "true", "False", "1_0", "0x10", "0X1f", "1e3", "0"),
        *(
            "123e4567",
            "1e1_0",
            "007",
            "08",
            "0o17",
            "0b11",
            "1.0",
            "1.20",
            ".5",
            ".inf",
            ".NaN",
            "-1",
            "+1",
        ),
    ],
)
def test_an_unquoted_name_that_yaml_takes_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(CDIError, match=r"devices\[0\].name.* text is wanted; quote it|not YAML"):
        loads(yaml_named(name), yaml=True)
    assert loads(yaml_named("ab" + name.strip(".+-")), yaml=True).devices[0].name.startswith("ab")


@pytest.mark.parametrize("name", ["null", "~", "NULL", ""])
def test_a_null_name_is_a_missing_name(name: str) -> None:
    with pytest.raises(CDIError, match=r"devices\[0\].name: the field is missing"):
        loads(yaml_named(name), yaml=True)


@pytest.mark.parametrize("name", ["0:1", "1:30", "2024-01-01", "yEs", "gpu-0", "1-2", "0:e1"])
def test_an_unquoted_name_that_runtimes_read_as_it_stands_is_kept(name: str) -> None:
    assert loads(yaml_named(name), yaml=True).devices[0].name == name


@pytest.mark.parametrize("name", ["0", "y", "1e3", "007", "0x10", "1.20", "true", "null"])
def test_a_quoted_name_is_kept(name: str) -> None:
    for quote in "\"'":
        text = yaml_named(f"{quote}{name}{quote}")
        assert loads(text, yaml=True).devices[0].name == name


def test_unquoted_text_anywhere_is_refused_and_not_only_in_names() -> None:
    text = yaml_named("dev") + "annotations: {on: 1, build: 2024}\n"
    with pytest.raises(CDIError) as caught:
        loads(text, yaml=True)
    assert {(problem.field, problem.value) for problem in caught.value.problems} == {
        ("annotations", "True"),
        ("annotations.True", "1"),
        ("annotations.build", "2024"),
    }


@pytest.mark.parametrize("mode", ["438", "0666", "0o666", "0x1b6"])
def test_every_form_of_a_file_mode_is_read_and_written_decimal(mode: str) -> None:
    text = yaml_named("dev").replace("env: [A=b]", f"deviceNodes: [{{path: /x, fileMode: {mode}}}]")
    spec = loads(text, yaml=True)
    assert spec.devices[0].container_edits.device_nodes[0].file_mode == 0o666
    assert '"fileMode":438' in dumps(spec)


def test_anchors_and_merges_work_as_in_yaml() -> None:
    text = (
        "cdiVersion: 0.3.0\nkind: vendor.com/device\n"
        "devices:\n- &one\n  name: a\n  containerEdits: {env: [A=b]}\n- <<: *one\n  name: b\n"
    )
    first, second = loads(text, yaml=True).devices
    assert (first.name, second.name) == ("a", "b")
    assert first.container_edits == second.container_edits
