"""``ToolBFCL-v0``: tasks of the Berkeley function-calling leaderboard, from its installed wheel."""
