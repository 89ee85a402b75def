"""A plan whose proxies are a small program in the place of pretrain.py. Nothing here needs torch, so that it starts at once."""

import sys

from mixing import proxies
from mixing.proxies import Plan

FAKE = """
import json, signal, sys, time
name, asked = sys.argv[1], []
def note(*_):
    asked.append(open(sys.argv[2], "a").write(f"asked {name}\\n"))
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
open(sys.argv[2], "a").write(f"begun {name}\\n")
until = time.time() + float(sys.argv[3])
while time.time() < until and not asked:
    time.sleep(0.01)
time.sleep(0.3 * len(asked))         # as long as it takes to save
open(sys.argv[2], "a").write(f"ended {name}\\n")
print(json.dumps({"eval": {"t": {"loss": len(name)}}, "parameters": 5, "flops": {"total": 7}, "mixture": []}))
"""


def a_plan(n=6):
    return Plan(["a", "b"], [[i / 10, 1 - i / 10] for i in range(n)], {"s": [], "large": []}, {"t": 1.0}, [], 0, {})


def fake(folder, seconds=0.0):
    """Makes workers run FAKE; what it does stands in folder/seen."""
    if not (folder / "fake.py").exists() or (folder / "fake.py").read_text() != FAKE:       # a proxy of another may be reading it
        (folder / "fake.py").write_text(FAKE)
    proxies.command = lambda out, plan, job: [sys.executable, str(folder / "fake.py"), proxies.name_of(job), str(folder / "seen"),
                                              str(seconds)]
