"""The miniature: a world and a small real Llama to try self-training on, offline, on a CPU.

Nothing here is a benchmark. The world is invented, the model is trained from scratch on
deliberately mixed behaviour, and a report that uses it says so. `toolgym.miniature.world` needs
nothing beside Python; `toolgym.miniature.preset` needs the `train` extra.
"""
