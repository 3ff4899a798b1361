"""Where processors and memory are: topology, placement, pinning, binding, and what came of it."""
