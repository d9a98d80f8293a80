"""Label-free scores of cells against what probes say of them, over tasks."""
