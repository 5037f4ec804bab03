"""The stand-in as a program of its own, and the troubles that such programs have.

``serve_model.py FOLDER PORT [NAME] [TROUBLE=VALUE ...]``; its words are those of `ModelServer`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from model_server import ModelServer

SLEEPER = "import time; time.sleep(600)"


class Troubled(ModelServer):
    """Dies after so many requests, where it has not died before.

    Args:
        die_after: requests.
        once: a file that says that it has died.
        hang: a file that says that it was asked, to which it has no answer.
    """

    def __init__(
        self, die_after: int, once: Path | None, hang: Path | None, **options: Any
    ) -> None:
        self.left, self.once, self.hang = die_after, once, hang
        super().__init__("vllm", **options)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion, or the end; other weights where a body has a path."""
        if self.hang:
            self.hang.touch()
            time.sleep(600)
        if "path" in body:
            weights = (Path(body["path"]) / "model.safetensors").read_bytes()
            with Path(body["note"]).open("a", encoding="utf-8") as file:
                file.write(hashlib.sha256(weights).hexdigest() + "\n")
            return {"success": body.get("works", True)}
        self.left -= 1
        if self.left < 0 and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            print("out of memory", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(body)


def encoder(folder: Path) -> dict[str, Any]:
    """Text to ids with the folder's tokenizer; one id a character where it has none."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    end = made.token_to_id(settings["eos_token"])
    return {
        "encode": lambda text: [*made.encode(text, add_special_tokens=False).ids, end],
        "say": lambda turn: "Answer: 7",
    }


def main() -> None:
    """Serve until somebody ends it."""
    folder, port, *rest = sys.argv[1:]
    troubles = dict(word.split("=", 1) for word in rest if "=" in word)
    names = [word for word in rest if "=" not in word]
    print("loading", folder, flush=True)
    time.sleep(float(troubles.get("late", 0)))
    if "child" in troubles:  # as engines do that have processes of their own
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        Path(troubles["child"]).write_text(str(child.pid), encoding="utf-8")
    if "exit" in troubles:
        print("no such architecture", file=sys.stderr, flush=True)
        sys.exit(int(troubles["exit"]))
    once = Path(troubles["once"]) if "once" in troubles else None
    served = Troubled(
        int(troubles.get("die_after", 1 << 30)),
        once,
        Path(troubles["hang"]) if "hang" in troubles else None,
        port=int(port),
        name=names[0] if names else folder,
        latency=float(troubles.get("latency", 0)),
        **encoder(Path(folder)),
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    served._thread.join()


if __name__ == "__main__":
    main()
