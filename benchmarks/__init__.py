"""Predictions in, tables out: benchmark files and their tasks, the speed suite, the report."""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
