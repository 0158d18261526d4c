"""Writes from_pytorch.npz by the block of docs/howto/from_pytorch.md that needs PyTorch.

Run it after a change of that block: `python tests/oracles/make_docs.py`.
"""

import os
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "howto" / "from_pytorch.md"


def main():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "import torch" in block]
    os.chdir(HERE)
    exec(compile(block, PAGE.name, "exec"), {"__name__": "page"})


if __name__ == "__main__":
    main()
