"""What holds for all tests."""

from __future__ import annotations

import hypothesis

# Machines are shared and noisy: no test fails for being slow, figures come from benchmarks/.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
