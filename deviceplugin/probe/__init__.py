"""Whatever touches a driver library runs in a child process per vendor.

`child` is that process, `stream` the JSON lines between it and the agent, `supervisor` the
agent's side: it starts the child, kills it at its deadline and starts it again with back-off.
A crash or a hang of a driver library costs its vendor one probe and nobody else anything.
"""
