# SPDX-License-Identifier: GPL-3.0-or-later
"""Image a line cube with ptclean on workers and with tclean, and compare all products.

Without arguments: the VLA's HI observation of NGC 5921 from the package ``casadata``, calibrated
here first. With ``--ms``: your own data, which are only read.

Each run makes a folder of its own in ``demo-output`` for images, a picture and CASA's logs;
nothing that is there already is changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SPEED_OF_LIGHT = 299_792_458.0
PIXELS_PER_BEAM = 4


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; options that are not given are None."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ms", help="image this measurement set instead of NGC 5921")
    parser.add_argument("--nworkers", type=int, default=2, help="workers (default: 2)")
    parser.add_argument("--output", default="demo-output", help="folder of the demo's folders")
    imaging = parser.add_argument_group("imaging, as in tclean")
    imaging.add_argument("--field")
    imaging.add_argument("--spw")
    imaging.add_argument("--datacolumn", help="default: data")
    imaging.add_argument("--imsize", type=int, help="pixels along each axis (256)")
    imaging.add_argument("--cell", help="such as 0.1arcsec (a quarter of the beam, roughly)")
    imaging.add_argument("--start", help="a channel, velocity or frequency")
    imaging.add_argument("--width", help="channels, velocity or frequency")
    imaging.add_argument("--nchan", type=int)
    imaging.add_argument("--outframe", help="default: LSRK")
    imaging.add_argument("--restfreq", help="such as 115.271202GHz")
    imaging.add_argument("--gridder", help="default: standard")
    imaging.add_argument("--deconvolver", help="default: hogbom")
    imaging.add_argument("--scales", type=int, nargs="+", help="of multiscale, in pixels")
    imaging.add_argument("--weighting", help="default: briggs")
    imaging.add_argument("--robust", type=float, help="default: 0.5")
    imaging.add_argument("--niter", type=int, help="default: 1000")
    imaging.add_argument("--threshold", help="such as 5mJy")
    imaging.add_argument("--nsigma", type=float, help="stop at this multiple of the noise")
    return parser.parse_args(argv)


def imaging_arguments(options: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """Arguments of tclean: `defaults`, and over them what the command line says."""
    general = {"ms", "nworkers", "output"}
    given = {k: v for k, v in vars(options).items() if k not in general and v is not None}
    for key in ("start", "width"):
        # A bare number is a number of channels, and not a velocity.
        if str(given.get(key, "")).lstrip("-").isdigit():
            given[key] = int(given[key])
    return defaults | given


def new_folder(parent: str | Path, name: str) -> Path:
    """Make a folder that did not exist: ``name-1``, ``name-2`` and so on."""
    number = 1
    while True:
        folder = Path(parent).absolute() / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def suggest_cell(vis: str) -> str:
    """Pixel size of a quarter of the resolution of the longest baseline."""
    from casatools import ms, msmetadata

    metadata, tool = msmetadata(), ms()
    metadata.open(vis)
    highest = max(metadata.chanfreqs(spw).max() for spw in range(metadata.nspw()))
    metadata.done()
    tool.open(vis)
    longest = tool.range(["uvdist"])["uvdist"][1]
    tool.done()
    radian = SPEED_OF_LIGHT / highest / longest / PIXELS_PER_BEAM
    return f"{radian * 180 / 3.141592653589793 * 3600:.2g}arcsec"


def timed(name: str, task: Callable[..., dict[str, Any]], **arguments: Any) -> float:
    """Run an imaging task; return the seconds it took."""
    print(f"{name} ...", flush=True)
    begin = time.perf_counter()
    record = task(**arguments)
    seconds = time.perf_counter() - begin
    print(f"    {seconds:.1f} s, {record['iterdone']} iterations", flush=True)
    return seconds


def run(options: argparse.Namespace) -> bool:
    """Make, compare and draw the images; return whether workers made identical ones."""
    vis = str(Path(options.ms).absolute()) if options.ms else ""
    if vis and not Path(vis).is_dir():
        raise SystemExit(f"there is no measurement set {vis}")
    name = Path(vis).name.removesuffix(".ms") if vis else "ngc5921"
    folder = new_folder(options.output, name)
    # CASA opens its log in the working directory when it is imported, so all that imports it
    # comes after this.
    os.chdir(folder)
    # One thread for tclean too: more do not make it faster at this size.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from casatasks import tclean

    from compare_images import compare_image_sets, format_table
    from plot_cube import plot_cube
    from ptclean import plan, ptclean

    print(f"Everything goes into {folder}")
    if vis:
        defaults: dict[str, Any] = {
            "datacolumn": "data",
            "specmode": "cube",
            "imsize": 256,
            "weighting": "briggs",
            "niter": 1000,
            "pbcor": True,
        }
        if options.cell is None:
            defaults["cell"] = suggest_cell(vis)
        title, subtitle = name, f"{options.nworkers} workers"
    else:
        import ngc5921

        print("Calibrating NGC 5921 ...", flush=True)
        line, flux = ngc5921.calibrate(folder)
        print(f"    1445+099 has {flux:.2f} Jy (the tutorial of CASA says 2.48 Jy)")
        vis, defaults = str(line), ngc5921.IMAGING
        title, subtitle = "NGC 5921 in neutral hydrogen", "VLA, 13 April 1995"
    arguments = imaging_arguments(options, defaults) | {"vis": vis}

    own = {"imagename": f"{name}.ptclean", "nworkers": options.nworkers}
    made = plan(**arguments, **own)
    load = os.getloadavg()[0]
    print(f"\n{made}\n")
    parallel = timed("ptclean", ptclean, **arguments, **own)
    serial = timed("tclean", tclean, **arguments, imagename=f"{name}.tclean")

    differences = compare_image_sets(f"{name}.ptclean", f"{name}.tclean")
    identical = all(d.identical for d in differences.values())
    print(
        f"\nDifferences between the images of ptclean and tclean:\n\n{format_table(differences)}\n"
    )
    print(
        f"ptclean {parallel:.1f} s, tclean {serial:.1f} s: {serial / parallel:.2f} times as fast, "
        f"on {os.cpu_count()} cores (load {load:.1f} before)"
    )

    picture = folder / f"{name}.png"
    if differences.get(".image") is not None:
        plot_cube(f"{name}.ptclean", picture, title, f"{subtitle}  ·  imaged by ptclean")
        print(f"Picture: {picture}")
    if made.serial:
        # Images of tclean are equal to those of tclean: that shows nothing of ptclean.
        print(f"NOTHING WAS COMPARED: ptclean left the work to tclean ({made.serial}).")
        return False
    print("The images are identical." if identical else "THE IMAGES DIFFER.")
    return identical


def main() -> int:
    return 0 if run(parse_arguments()) else 1


if __name__ == "__main__":
    sys.exit(main())
