"""Doctor: what the machine has of what grading needs. It changes nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from grader import screens
from grader.course import Course
from grader.terminal import Terminal

ENOUGH_BYTES = 500 * 2**20
NEEDED = ("torch", "pytest", "pytest-json-report", "jinja2", "psutil")

# Torch is imported in a process of its own: a broken one must not end the doctor.
_PROBE = """
import json, torch
found = {"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": []}
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found["devices"].append(f"{properties.name} ({properties.total_memory / 2**30:.0f} GB)")
elif torch.backends.mps.is_available():
    found["devices"].append("MPS")
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    state: str  # "ok", "note" or "missing"
    advice: str = ""


def run(terminal: Terminal, course: Course | None, *, is_json: bool) -> int:
    """Look at everything and say it; 4 where something that is needed is missing."""
    findings = examine(course)
    if is_json:
        document = {"schema": "grade.doctor/1", "findings": [asdict(f) for f in findings]}
        terminal.write(json.dumps(document, indent=2))
    else:
        screens.machine(terminal, [asdict(finding) for finding in findings])
    return 4 if any(finding.state == "missing" for finding in findings) else 0


def examine(course: Course | None) -> list[Finding]:
    """All findings, the most important first."""
    findings = [_python(), *packages()]
    if findings[1].state == "ok":
        findings += _devices()
    findings += [_processors(), _command(), _encoding()]
    if course is not None:
        findings += [_writable("exercises", course.exercises_folder)]
        findings += [_writable("reports", course.reports), _disk(course.root)]
    else:
        advice = "Change into a folder with course.toml, or name it with -C"
        findings.append(Finding("course", "none here", "note", advice))
    return findings


def packages() -> list[Finding]:
    """Whether the packages that grading needs are installed; none of them is imported."""
    return [_package(name) for name in NEEDED]


def _python() -> Finding:
    version = platform.python_version()
    value = f"{version} on {platform.system()} {platform.machine()}"
    return Finding("python", value, "ok")


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name), "ok")
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", "missing", f"pip install {name}")


def _devices() -> list[Finding]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=180
        )
    except subprocess.TimeoutExpired:
        return [Finding("device", "torch did not load within 3 minutes", "missing")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return [Finding("device", f"torch does not load: {last}", "missing", "Install it anew")]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    devices = ", ".join(found["devices"])
    if devices:
        return [Finding("device", devices, "ok")]
    built = f"CUDA {found['cuda']}" if found["cuda"] else "no CUDA"
    advice = "Checks that need a GPU are skipped, and leave the total"
    return [Finding("device", f"CPU (torch is built with {built})", "note", advice)]


def _processors() -> Finding:
    usable: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    count = len(usable(0)) if usable is not None else os.cpu_count() or 1
    return Finding("processors", f"{count}; each check runs on one", "ok")


def _command() -> Finding:
    place = shutil.which("grade")
    if place is None:
        return Finding("command", "grade is not on PATH", "note", "python -m grader always works")
    own = Path(sys.executable).parent
    if Path(place).parent != own:
        advice = f"Another one may be meant: this one belongs to {own}"
        return Finding("command", place, "note", advice)
    return Finding("command", place, "ok")


def _encoding() -> Finding:
    encoding = getattr(sys.stdout, "encoding", None) or "unknown"
    if encoding.lower().replace("-", "") == "utf8":
        return Finding("encoding", encoding, "ok")
    return Finding("encoding", encoding, "note", "Words stand in for signs; UTF-8 shows all")


def _writable(name: str, folder: Path) -> Finding:
    nearest = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return Finding(name, f"{folder} can be written", "ok")
    return Finding(name, f"{folder} can't be written", "missing", "Attempts could not be kept")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    value = f"{free / 2**30:.1f} GB free"
    if free < ENOUGH_BYTES:
        return Finding("disk", value, "note", "Free some room before a long session")
    return Finding("disk", value, "ok")
