"""MCP servers (Model Context Protocol) as tools of an environment."""
