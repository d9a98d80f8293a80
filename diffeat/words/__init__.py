"""Words on their way to a model: vocabularies, templates, embeddings, and the tokens of a word."""
