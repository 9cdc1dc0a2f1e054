"""The code of here and that of another checkout, in turn.

A script that compares runs itself, in a process that imports everything else from the checkout: what it
measures with may be as old as what is measured. So who imports this does it where it compares, and not at the
top: an earlier commit may not have it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import PROJECT


def in_turn(against: Path | None) -> dict[str, Path]:
    """What is compared, by the name it has in tables; here alone where there is nothing else."""
    return {"before": against, "here": PROJECT} if against else {"here": PROJECT}


def measured_in(checkout: Path, script: str, *arguments: str) -> Any:
    """What ``script`` prints last, as JSON, when it runs over the code of ``checkout``.

    Raises:
        subprocess.CalledProcessError: it failed there.
    """
    done = subprocess.run(
        [sys.executable, script, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
