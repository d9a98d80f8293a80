"""Parts without labels, scored by the best matching of parts and classes."""
