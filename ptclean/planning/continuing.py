# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run finds under its name: images of an earlier one, from which tclean goes on.

CASA opens whatever product exists, and writes into it; it makes what does not exist. So a model
on disk is where the clean begins, a mask is used where no other is given, a PSF or residual is
taken as it is where it is not to be made (``calcpsf=False``, ``calcres=False``), and a product that
nobody writes to stays (``SIImageStore::openImage``, ``SynthesisDeconvolver::setupMask``).

In ptclean each chunk gets its channels of the earlier images and goes on from them in the work
directory; the earlier images stand as they are until the new ones replace them.

Plain functions on plain data.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

#: Extensions of the products of a cube, in the order in which tclean makes them. Not the density of
#: the weights, ``.gridwt``: it is made anew, or not at all.
PRODUCTS = (
    "psf",
    "pb",
    "weight",
    "sumwt",
    "residual",
    "model",
    "mask",
    "image",
    "image.pbcor",
)

#: Values with which a parameter that names something names nothing.
NOTHING: tuple[Any, ...] = ("", [], [""], None)


@dataclass(frozen=True)
class Beginning:
    """From what a cube begins; plain data.

    Attributes
    ----------
    prefix : str
        Prefix of earlier images, absolute.
    products : tuple of str
        Extensions of those that exist.
    model : str or None
        Model image of the whole cube to begin with: an earlier one, or tclean's `startmodel` on
        the grid of the cube.
    makes_psf, makes_residual : bool
        tclean's `calcpsf` and `calcres`.
    """

    prefix: str = ""
    products: tuple[str, ...] = ()
    model: str | None = None
    makes_psf: bool = True
    makes_residual: bool = True

    @property
    def images(self) -> dict[str, str]:
        """Paths of the images to begin with, by product."""
        paths = {product: f"{self.prefix}.{product}" for product in self.products}
        return paths if self.model is None else paths | {"model": self.model}

    @property
    def made_first(self) -> frozenset[str]:
        """Products that CASA's imager makes from the visibilities before any minor cycle."""
        made: set[str] = set()
        if self.makes_psf:
            made |= {"psf", "pb", "weight", "sumwt"}
        if self.makes_residual:
            made |= {"residual", "sumwt"}
        return frozenset(made)

    def leaves(self, *, cleans: bool, restores: bool, corrects: bool) -> frozenset[str]:
        """Products that, if they exist, nobody writes to.

        Parameters
        ----------
        cleans, restores, corrects : bool
            See :class:`ptclean.imaging.chunk_job.CubeJob`.
        """
        written = set(self.made_first)
        if cleans:
            written |= {"residual", "sumwt", "model", "mask"}
        if restores:
            written.add("image")
        if restores and corrects:
            written.add("image.pbcor")
        return frozenset(self.products) - written


def starts_from_image(startmodel: Any) -> bool:
    """Tell whether a parameter `startmodel` names anything."""
    return startmodel not in NOTHING


def startmodel_path(startmodel: Any) -> str | None:
    """Return the one image that a parameter `startmodel` names; None for none or several."""
    if isinstance(startmodel, list):
        return startmodel_path(startmodel[0]) if len(startmodel) == 1 else None
    return startmodel if isinstance(startmodel, str) and startmodel else None


def reason_in_earlier_images(parameters: dict[str, Any], existing: Collection[str]) -> str | None:
    """Say why a call is tclean's, if it is, for what does or does not exist under its name.

    Parameters
    ----------
    parameters : dict
        tclean's parameters, validated.
    existing : collection of str
        Extensions of the products that exist under ``imagename``.

    Returns
    -------
    str or None
        A phrase that names the parameter and its value, or None where the engine can take it.
    """
    name = parameters["imagename"]
    if not parameters["restart"] and existing:
        # tclean then makes images of another name.
        return f"restart=False, and {name}.{min(existing)} exists"
    startmodel = parameters["startmodel"]
    if starts_from_image(startmodel):
        if startmodel_path(startmodel) is None:
            return f"startmodel={startmodel!r}"
        if "model" in existing:
            return f"startmodel={startmodel!r}, and {name}.model exists"
    for parameter, products in (("calcpsf", ("psf", "pb", "sumwt")), ("calcres", ("residual",))):
        for product in products:
            if not parameters[parameter] and product not in existing:
                return f"{parameter}=False, and there is no {name}.{product}"
    if "mask" in existing:
        if parameters["mask"] not in NOTHING:
            return f"mask={parameters['mask']!r}, and {name}.mask exists"
        if parameters["usemask"].startswith("auto"):
            return f"usemask={parameters['usemask']!r}, and {name}.mask exists"
    made = ("calcpsf", "calcres", "restoration", "niter")
    if not any(parameters[parameter] for parameter in made):
        return "niter=0, calcpsf=False, calcres=False and restoration=False make no image"
    return None
