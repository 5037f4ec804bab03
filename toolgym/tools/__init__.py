"""Built-in tools; an environment makes them by name."""
