"""Predictions in, tables out: benchmark files and their tasks, the speed suite, the report."""
