"""Several finished feature files become one."""
