"""How each ATen operation ties the axes of its tensors: one small function per kind of operation, rows in tables."""
