"""Predictions in, tables out: recipes, baselines, the speed suite, the report."""
