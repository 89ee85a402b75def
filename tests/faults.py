"""Faults that the tests must find: each is planted alone into a copy of the repository, and its tests must fail.

    python tests/faults.py                       plants every fault, two at a time, and prints the table
    python tests/faults.py --only dpo.py draws   those whose file or description has one of these words
    python tests/faults.py --resume              goes on with an interrupted run

A test that passes whatever the code does is worth nothing, and nobody sees it by reading. faults.json holds one object per
fault: `file`; `old`, a piece of it that occurs once; `new`, what is put in its place; `what` is then wrong; and `tests`, the
arguments of pytest that are expected to notice. First these tests are run on the code as it is, where they must pass. The
results of all faults go to results/faults.jsonl: which test noticed each. --only writes no file but that of --out. A run that
hangs (over --timeout seconds) counts as noticed.

tests/test_faults.py sees to it that every `old` is there still, so that the list keeps up with the code.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")


def read_faults():
    return json.loads((ROOT / "tests" / "faults.json").read_text())


def plant(folder, fault):
    """Writes the fault into a copy of the repository; returns the file as it was."""
    path = Path(folder) / fault["file"]
    text = path.read_text()
    if text.count(fault["old"]) != 1:
        raise ValueError(f"{fault['file']}: {fault['old']!r} occurs {text.count(fault['old'])} times, not once ({fault['what']})")
    path.write_text(text.replace(fault["old"], fault["new"]))
    return text


def run_tests(folder, tests, timeout):
    """Runs pytest in a copy: (passed, the first test that failed, or what else happened)."""
    data = os.environ.get("NANOTHINK_DATA") or str(ROOT.parent / "shared" / "data")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1", "NANOTHINK_DATA": data})
    try:
        out = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return False, f"no end within {timeout} seconds"
    if process.returncode in (0, 1):
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.M)
        return process.returncode == 0, failed.group(1) if failed else ""
    raise RuntimeError(f"pytest {' '.join(tests)} ended with {process.returncode}:\n{out[-2000:]}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--only", nargs="+", default=[], metavar="WORD", help="faults whose file or description has one of these")
    p.add_argument("--jobs", type=int, default=2, help="faults to try at once")
    p.add_argument("--timeout", type=int, default=900, help="seconds for the tests of one fault")
    p.add_argument("--sure", action="store_true", help="do not run the tests on the code as it is first: they pass")
    p.add_argument("--resume", action="store_true", help="leave out what results/faults.jsonl has for this code already")
    p.add_argument("--out", default="", help="file to write (default: results/faults.jsonl; with --only none)")
    args = p.parse_args()
    args.out = args.out or (os.devnull if args.only else str(ROOT / "results" / "faults.jsonl"))
    faults = [f for f in read_faults() if not args.only or any(w in f["file"] + " " + f["what"] for w in args.only)]
    done = [json.loads(line) for line in Path(args.out).read_text().splitlines()] if args.resume else []
    faults = [f for f in faults if f["what"] not in {d["what"] for d in done}]
    free = [tempfile.mkdtemp(prefix="faults") for _ in range(args.jobs)]
    for folder in free:
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT, dirs_exist_ok=True)

    def attempt(fault):
        folder = free.pop()
        try:
            before = plant(folder, fault)
            passed, test = run_tests(folder, fault["tests"], args.timeout)
            (Path(folder) / fault["file"]).write_text(before)
            return {"what": fault["what"], "file": fault["file"], "noticed": not passed, "by": test}
        finally:
            free.append(folder)

    try:
        needed = [] if args.sure else sorted({tuple(f["tests"]) for f in faults})
        print(f"the tests of {len(faults)} faults on the code as it is: {len(needed)} commands", flush=True)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            def sound(tests):
                folder = free.pop()
                try:
                    return tests, run_tests(folder, tests, args.timeout)
                finally:
                    free.append(folder)
            for tests, (passed, test) in pool.map(sound, needed):
                if not passed:
                    raise SystemExit(f"pytest {' '.join(tests)} fails without any fault: {test}")
            with open(args.out, "a" if args.resume else "w") as out:
                for i, found in enumerate(pool.map(attempt, faults), 1):
                    out.write(json.dumps(found) + "\n")
                    out.flush()
                    verdict = f"noticed by {found['by']}" if found["noticed"] else "NOT NOTICED"
                    print(f"{i}/{len(faults)}  {found['file']}: {found['what']}: {verdict}", flush=True)
                    done.append(found)
    finally:
        for folder in free:
            shutil.rmtree(folder, ignore_errors=True)
    missed = [d["what"] for d in done if not d["noticed"]]
    print(json.dumps({"faults": len(done), "noticed": len(done) - len(missed), "missed": missed}))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
