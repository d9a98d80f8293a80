"""Numbers of a cell that need no label, each head on its own, and which of them to trust."""
