"""``python -m deviceplugin``: the same as the console script."""

from deviceplugin.cli.main import run

run()
