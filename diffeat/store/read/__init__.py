"""Finished feature files: opened, read, checked, exported."""
