"""The page says exactly what the command looks for."""

from __future__ import annotations

import re
from pathlib import Path

from deviceplugin.doctor.examine import CHECK_FAILED, catalogue
from deviceplugin.doctor.examine import GROUPS as OF_NODES
from deviceplugin.doctor.fleet.examine import GROUPS as OF_CLUSTERS

GROUPS = (*OF_NODES, *OF_CLUSTERS)
PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
ROW = re.compile(r"^\| `(?P<id>[a-z-]+)` \| (?P<severity>\w+) \| (?P<title>.+) \|$", re.MULTILINE)


def test_the_page_lists_exactly_the_findings_in_their_order() -> None:
    listed = [match.groups() for match in ROW.finditer(PAGE)]
    assert listed == [
        (topic.id, topic.severity.value, topic.title) for topic in catalogue().values()
    ]


def test_the_page_has_a_heading_for_each_group() -> None:
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == [group.name for group in GROUPS]


def test_ids_are_slugs_and_no_two_findings_share_one() -> None:
    topics = [CHECK_FAILED, *(topic for group in GROUPS for topic in group.topics)]
    assert len(topics) == len(catalogue())
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", topic.id) for topic in topics)
    assert all(topic.group == group.name for group in GROUPS for topic in group.topics)


def test_every_finding_says_what_it_means_and_what_to_do() -> None:
    for topic in catalogue().values():
        texts = (topic.title, topic.meaning, topic.remedy)
        assert all(text and text == text.strip() for text in texts), topic.id
        assert len(set(texts)) == 3, topic.id
