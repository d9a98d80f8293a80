"""Parts of a picture without labels: merged attention, cut graphs, clusters; matched to classes."""
