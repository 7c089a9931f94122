"""How edits reach a container: `render` turns them into an Allocate response and CDI
specifications, `store` keeps those specifications in the CDI directory.
"""
