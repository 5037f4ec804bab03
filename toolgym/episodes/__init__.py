"""An episode while it is played: its tools, its user, its state."""

from toolgym.episodes.users import ScriptedUser, User, UserTurn

__all__ = ["ScriptedUser", "User", "UserTurn"]
