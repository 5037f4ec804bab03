"""Worlds: tables, tools that read and write them, a goal over what they hold at the end."""
