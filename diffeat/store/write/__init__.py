"""A feature file in the making: shards, their folder, their merge."""
