"""Classes by their names: masks pooled, named by embeddings, fused, and merged to one picture."""
