# SPDX-License-Identifier: GPL-3.0-or-later
"""Time ptclean against tclean and others, in turn, on the same data, and compare their images.

    python benchmarks/compare.py                        every case against tclean
    python benchmarks/compare.py hogbom --rounds 5 --against tclean pclean=/path/to/python
    python benchmarks/compare.py automask --against pclean=/path/to/python --chunk 8
    python benchmarks/compare.py --list

Each run is a process of its own: the *call* is the time of the task, the *session* that of the
process. Engines take turns, round by round, each round beginning with another one, on data that
have just been written, and are in memory; what one has written is on disk when the next begins. The
figure is the median of the ratios within a round, with the smallest and the largest. The images of
each round are compared with tclean's, exactly, and what is found is said.

``pclean=PYTHON`` is casa-pclean, ``mpi=PYTHON`` is tclean under ``mpirun`` with two servers: PYTHON
is that of an environment with casa-pclean, or with casampi, mpi4py and OpenMPI. ``--chunk`` is
casa-pclean's number of channels of a chunk; it cuts the cube into as many as there are workers
otherwise. It is told the frequency at which the cube starts, and the channels' width: where it has
to find them itself, as tclean does, casa-pclean 0.2.3 images the first chunk's channels in each.

Results go, after each round, to ``benchmarks/results/<case>.json``. Without tclean images are
compared with ptclean's, and results go to ``<case>.others.json``. ``--more`` adds rounds to those
that are there, of the same engines. ``python benchmarks/tables.py`` makes ``docs/benchmarks.md`` of
them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

#: What a process that images executes; the engine's import comes first.
_CHILD = """
import json, sys, time
# casa-pclean's workers import this script.
if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    started = time.perf_counter()
    task(**arguments)
    print("seconds of the call:", time.perf_counter() - started)
"""

_MARK = "seconds of the call:"


@dataclass(frozen=True)
class Case:
    """What is imaged.

    Attributes
    ----------
    says : str
        For the table.
    data : dict
        Arguments of `simulate_ms.simulate`.
    arguments : dict
        Of tclean.
    own : dict
        Of ptclean alone.
    to_reach : float
        Ratio that is aimed at against tclean.
    slack : float
        Seconds by which ptclean may be slower instead, where starting takes most of the time.
    """

    says: str
    data: dict[str, Any]
    arguments: dict[str, Any]
    own: dict[str, Any] = field(default_factory=lambda: {"nworkers": 2})
    to_reach: float = 1.0
    slack: float = 0.0

    @property
    def goal(self) -> str:
        """What is aimed at against tclean, in words."""
        return f"at most {self.slack:g} s longer" if self.slack else f"{self.to_reach:.2f}"


_LINE = {"nchan": 128, "nant": 40, "nint": 5, "line_fraction": 0.25, "continuum": 0.0}
_CLEAN = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 512,
    "cell": "0.05arcsec",
    "weighting": "briggs",
    "niter": 100_000,
    "threshold": "18mJy",
    "cyclefactor": 3.0,
}

CASES = {
    "dirty": Case(
        "dirty cube, 256 channels of 1024 x 1024, MS of 1 GB",
        {"nchan": 256, "nant": 43, "nint": 272, "line_fraction": 0.25, "continuum": 0.0},
        {
            **_CLEAN,
            "imsize": 1024,
            "cell": "0.025arcsec",
            "niter": 0,
        },
        to_reach=1.9,
    ),
    "hogbom": Case(
        "hogbom to 18 mJy, 128 channels of 512 x 512, line in a quarter of them",
        _LINE,
        _CLEAN,
        to_reach=3.0,
    ),
    "hogbom-1": Case("the same with 1 worker", _LINE, _CLEAN, {"nworkers": 1}, to_reach=1 / 1.05),
    "multiscale": Case(
        "the same with multiscale",
        _LINE,
        {**_CLEAN, "deconvolver": "multiscale", "scales": [0, 5, 15]},
        to_reach=2.0,
    ),
    "automask": Case(
        "the same with auto-multithresh",
        _LINE,
        {**_CLEAN, "usemask": "auto-multithresh"},
        to_reach=2.0,
    ),
    "small": Case(
        "small cube, 12 channels of 128 x 128, ptclean's own choice",
        {"nchan": 12},
        {**_CLEAN, "imsize": 128, "cell": "0.1arcsec"},
        {},
        slack=1.0,
    ),
}

_IMPORTS = {
    "tclean": "from casatasks import tclean as task",
    "ptclean": "from ptclean import ptclean as task",
    "pclean": "from pclean import pclean as task",
    "mpi": "import casampi.private.start_mpi\nfrom casatasks import tclean as task",
}


def engine(name: str) -> tuple[str, list[str]]:
    """Return an engine's name and the command that runs a script on it."""
    kind, _, python = name.partition("=")
    if kind not in _IMPORTS:
        raise SystemExit(f"{kind!r} is none of {', '.join(_IMPORTS)}")
    command = [python or sys.executable]
    if kind == "mpi":
        mpirun = str(Path(command[0]).with_name("mpirun"))
        # A client and two servers.
        command = [mpirun, "-n", "3", "--oversubscribe", "--allow-run-as-root", *command]
    return kind, command


def image(kind: str, command: Sequence[str], folder: Path, arguments: dict[str, Any]) -> Any:
    """Image in a process of its own; returns the seconds of call and session."""
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CASASITECONFIG": str(ROOT / "examples" / "casasiteconfig.py"),
    }
    script = folder / "script.py"
    script.write_text(f"{_IMPORTS[kind]}\n{_CHILD}")
    started = time.perf_counter()
    done = subprocess.run(
        [*command, str(script), json.dumps(arguments)],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    session = time.perf_counter() - started
    calls = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not calls:
        raise SystemExit(f"{kind} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return {"call": float(calls[-1].removeprefix(_MARK)), "session": session}


def channels(vis: Path, arguments: dict[str, Any]) -> dict[str, str]:
    """Return `start` and `width` of the cube that tclean makes, in Hz."""
    from ptclean import plan

    # With workers given, also a small cube has a plan.
    planned = plan(str(vis), imagename="cube", nworkers=2, **arguments)
    axis = planned.coordinates["spectral2"]["wcs"]
    return {"start": f"{axis['crval']!r}Hz", "width": f"{axis['cdelt']!r}Hz"}


def difference(expected: Path, found: Path) -> str:
    """Say how the images of two runs differ."""
    from compare_images import compare_image_sets
    from ptclean.products.images import channel_peaks

    if not list(found.parent.glob(f"{found.name}.*")):
        return "none"
    products = compare_image_sets(expected, found)
    unequal = [name for name, each in products.items() if not each.identical]
    if not unequal:
        return "identical"
    left, expected_left = (
        f"{1e3 * max(channel_peaks(f'{each}.residual')):.1f}" for each in (found, expected)
    )
    return f"differ: {', '.join(unequal)}; leave {left} mJy/beam, where tclean {expected_left}"


def run(
    name: str, case: Case, engines: Sequence[str], rounds: int, folder: Path, chunk: int | None
) -> Iterator[dict[str, Any]]:
    """Run one case on all engines, in turn; yields all results after each round."""
    from simulate_ms import simulate

    vis = folder / f"{name}.ms"
    simulate(vis, **case.data)
    size = sum(path.stat().st_size for path in vis.rglob("*") if path.is_file())
    times: dict[str, list[Any]] = {}
    images: dict[str, set[str]] = {}
    # casa-pclean has to be told.
    is_told = any(engine(given)[0] == "pclean" for given in engines)
    start_and_width = channels(vis, case.arguments) if is_told else {}
    for number in range(1, rounds + 1):
        made: dict[str, Path] = {}
        first = number % len(engines)
        for given in [*engines[first:], *engines[:first]]:
            kind, command = engine(given)
            # ptclean waits for its images to be on disk, others do not: not for those of others.
            os.sync()
            place = folder / f"{number}-{kind}"
            place.mkdir()
            arguments = {**case.arguments, "vis": str(vis), "imagename": str(place / "cube")}
            if kind == "ptclean":
                arguments |= case.own
            elif kind == "pclean":
                arguments |= {"parallel": True, "nworkers": case.own.get("nworkers", 2)}
                # It takes lists alone.
                arguments |= {
                    "imsize": [arguments["imsize"]] * 2,
                    "nchan": case.data["nchan"],
                    **start_and_width,
                }
                if chunk is not None:
                    arguments["cube_chunksize"] = chunk
            elif kind == "mpi":
                arguments |= {"parallel": True}
            seconds = image(kind, command, place, arguments)
            made[kind] = place / "cube"
            print(f"{name} round {number} {kind}: {seconds['call']:.1f} s", flush=True)
            times.setdefault(kind, []).append(seconds)
        standard = "tclean" if "tclean" in made else "ptclean"
        for kind in made.keys() - {standard}:
            images.setdefault(kind, set()).add(difference(made[standard], made[kind]))
        for place in folder.glob(f"{number}-*"):
            shutil.rmtree(place)
        yield {
            "case": name,
            "says": case.says,
            "measurement_set_bytes": size,
            **conditions(chunk),
            "times": times,
            "images": {kind: sorted(found) for kind, found in images.items()},
            "when": time.strftime("%Y-%m-%d"),
        }


def conditions(chunk: int | None) -> dict[str, Any]:
    """Say under which conditions runs are timed."""
    return {
        "commit": commit(),
        "chunk_of_pclean": chunk,
        "machine": {"cores": os.cpu_count(), "processor": _processor()},
        "versions": {
            package: version(package) for package in ("casatools", "dask", "distributed", "numpy")
        },
    }


def commit() -> str:
    """Say which ptclean this is: its last commit, and whether its files were changed since."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *command, "--", "ptclean"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    return git("log", "-1", "--format=%h") + "-changed" * bool(git("status", "--porcelain"))


def earlier_rounds(path: Path, kinds: set[str], chunk: int | None) -> dict[str, Any]:
    """Read what more rounds of the same engines, under the same conditions, are to be added to."""
    if not path.exists():
        raise SystemExit(f"there are no rounds in {path}; begin, without --more")
    earlier: dict[str, Any] = json.loads(path.read_text())
    wanted = {"engines": kinds, **conditions(chunk)}
    had = {"engines": set(earlier["times"]), **earlier}
    for what, value in wanted.items():
        if had.get(what) != value:
            raise SystemExit(
                f"{path} has other {what}: {had.get(what)}, not {value}; begin anew, without --more"
            )
    return earlier


def joined(earlier: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the rounds of a run to those of an earlier one."""
    return {
        **found,
        "times": {kind: earlier["times"][kind] + each for kind, each in found["times"].items()},
        "images": {
            kind: sorted({*earlier["images"][kind], *each})
            for kind, each in found["images"].items()
        },
    }


def spread(values: Sequence[float], digits: int = 2, unit: str = "", mark: str = "") -> str:
    """Median, with a mark on either side, smallest and largest of some values."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{mark}{middle}{unit}{mark} ({low} to {high})"


def pairs(times: dict[str, list[Any]], kind: str, which: str) -> list[tuple[float, float]]:
    """Seconds that another and ptclean took, round by round."""
    return [
        (other[which], ours[which])
        for other, ours in zip(times[kind], times["ptclean"], strict=True)
    ]


def ratios(times: dict[str, list[Any]], kind: str, which: str) -> list[float]:
    """How many times as fast ptclean was, round by round."""
    return [other / ours for other, ours in pairs(times, kind, which)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--against", nargs="+", default=["tclean"], metavar="ENGINE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="for data and images; a disk with room")
    parser.add_argument("--chunk", type=int, default=None, help="casa-pclean's, in channels")
    parser.add_argument("--more", action="store_true", help="add to the rounds on file")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, case in CASES.items():
            print(f"{name:12} {case.says}; to reach: {case.goal}")
        return
    sys.path.insert(0, str(ROOT / "examples"))
    RESULTS.mkdir(exist_ok=True)
    for name in options.cases or CASES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            engines = [*options.against, "ptclean"]
            kinds = {engine(each)[0] for each in engines}
            others = "" if "tclean" in kinds else ".others"
            path = RESULTS / f"{name}{others}.json"
            earlier = earlier_rounds(path, kinds, options.chunk) if options.more else None
            for made in run(
                name, CASES[name], engines, options.rounds, Path(folder), options.chunk
            ):
                found = joined(earlier, made) if earlier else made
                path.write_text(json.dumps(found, indent=1) + "\n")
        for kind in found["times"]:
            if kind != "ptclean":
                said = spread(ratios(found["times"], kind, "session"))
                print(f"{name}: {said} times as fast as {kind}")
        print(f"{name}: {found['images']}")


if __name__ == "__main__":
    main()
