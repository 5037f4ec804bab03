"""``ToolQA``: question answering with a calculator, a search engine and a translator."""
