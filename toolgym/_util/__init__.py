"""What every room may use: JSON lines, tables, near names, optional packages."""
