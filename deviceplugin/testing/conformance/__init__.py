"""What every vendor promises, checked: built-in or a stranger's, from the wheel alone.

`run.run` examines a `subject.subject`: an installed vendor's name, or ``module`` or
``module:ATTRIBUTE``; the node that stands for hardware is the vendor's own profile or a file. In a
test suite, `pytest_plugin` offers each check as one test. `broken` are vendors that fail.
"""
