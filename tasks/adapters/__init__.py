"""One vendor each; vendor exceptions are translated here and leave as `core.errors`."""
