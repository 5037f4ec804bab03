"""One file that makes our environments another framework's: none is imported before it is used."""
