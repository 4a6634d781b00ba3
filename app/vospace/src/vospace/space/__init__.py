"""One VOSpace on one directory.

`space.Space` wires the parts and is what the rest of the service calls. Each part is a module: `lookup`, `describe`,
`walk`, `write`, `create`, `update`, `move` and `copy` act on nodes; `access`, `permissions`, `quota` and `usage` hold
the rules they act by.
"""
