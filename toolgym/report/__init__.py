"""Documents of blocks, as Markdown, HTML and JSON, and the drawings in them."""
