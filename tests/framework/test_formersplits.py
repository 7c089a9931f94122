"""How devices were split is known after a restart, and a damaged record is no obstacle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deviceplugin import formersplits
from deviceplugin.splitting import split, withhold
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split

SPLITS = st.builds(
    Split,
    count=st.integers(1, 9),
    separator=st.sampled_from(["-", "::"]),
    sharing=st.sampled_from(Sharing),
    memory_scaling=st.sampled_from([1.0, 1.5]),
    max_request=st.integers(0, 3),
)


@given(now=SPLITS, former=SPLITS, uuids=st.sets(st.text("abc-:", min_size=1, max_size=5)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_saved_is_loaded(
    tmp_path: Path, now: Split, former: Split, uuids: set[str]
) -> None:
    snapshot = Snapshot(tuple(PhysicalDevice(uuid, "0", "M") for uuid in sorted(uuids)))
    earlier = split(ResourcePlan("a.b/c", tuple(uuids), former), snapshot)
    table = withhold(
        split(ResourcePlan("a.b/c", tuple(uuids), now), snapshot, earlier.virtual), now, None
    )
    path = tmp_path / "acme.splits.json"
    formersplits.save(path, {"a.b/c": table})
    assert formersplits.load(path)["a.b/c"].virtual == dict(table.virtual)
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_no_former_split(tmp_path: Path) -> None:
    assert formersplits.load(tmp_path / "none") == {}


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["version", "resources", "split", "ids", "x"]), inner)
    ),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"version": st.just(1), "resources": JSON}))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else_is_an_error_with_the_files_name(tmp_path: Path, document: object) -> None:
    path = tmp_path / "acme.splits.json"
    path.write_text(json.dumps(document))
    try:
        formersplits.load(path)
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("text", ["", "{", "\0", "[" * 100_000, '{"version": 2, "resources": {}}'])
def test_text_that_is_no_record_is_an_error_with_the_files_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "acme.splits.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"acme\.splits\.json"):
        formersplits.load(path)
