"""The name of an allocation, derived from what kubelet hands out. Pure.

Kubelet may ask the same again (container restart with a lost checkpoint) and asks in any order, so
the name comes from the set of ids and nothing else: equal question, equal answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

_NAMESPACE = uuid.UUID("6c1f3b0e-5b0f-5d0c-9a53-2f1f0a7c9d41")


def allocation_id(resource: str, ids: Iterable[str]) -> str:
    """A uuid for these ids of this resource, led by a letter.

    CDI names that begin with a digit need CDI 0.5.0, which old runtimes cannot read (cdi.md 1.2),
    hence the ``a-``. 38 characters; legal as a CDI device name, a file name and the end of an
    annotation key.
    """
    return f"a-{uuid.uuid5(_NAMESPACE, ' '.join([resource, *sorted(set(ids))]))}"
