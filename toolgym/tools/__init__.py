"""Built-in tools, one a file; an environment makes them by name."""
