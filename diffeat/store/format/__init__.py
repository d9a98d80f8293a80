"""How a feature file is made: columns, manifest, layout, checksums, safe opening."""
