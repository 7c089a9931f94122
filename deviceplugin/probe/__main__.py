"""``python -m deviceplugin.probe``: the child process; started by the agent, not by people."""

import sys

from deviceplugin.probe.child import main

sys.exit(main())
