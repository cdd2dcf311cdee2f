# SPDX-License-Identifier: GPL-3.0-or-later
"""The records that CASA's synthesis tools take, as plain data that travels to workers.

Knows nothing of CASA: importing it is cheap, and needs no measures data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class ImagingRecords:
    """The records of one image set, ready for CASA's synthesis tools.

    Attributes
    ----------
    selection : dict of dict
        One record for each measurement set, in the order in which they are to be selected.
    image, gridding, weighting, normalization, deconvolution, iteration : dict
        For ``defineimage``, ``defineimage``, ``setweighting``, ``setupnormalizer``,
        ``setupdeconvolution`` and ``setupiteration``.
    """

    selection: dict[str, Record]
    image: Record
    gridding: Record
    weighting: Record
    normalization: Record
    deconvolution: Record
    iteration: Record

    def named(self, prefix: str) -> ImagingRecords:
        """Return the same records for images whose names begin with `prefix`."""
        return replace(
            self,
            **{
                name: {**getattr(self, name), "imagename": prefix}
                for name in ("image", "gridding", "normalization", "deconvolution")
            },
        )

    def channels(
        self, coordinates: Record, nchan: int, *, reselects: bool = True
    ) -> ImagingRecords:
        """Return the same records for `nchan` channels of the given coordinate system.

        CASA then takes the spectral axis from the coordinates, not from ``start`` and ``width``.

        Parameters
        ----------
        coordinates : dict
            Coordinate record of the channels.
        nchan : int
        reselects : bool
            Whether CASA may select the data anew, for these channels alone, as it does where a
            spectral window has 30 channels or more (``SynthesisImagerVi2::tuneSelectData``). It
            never does for ``specmode='cubedata'``, and where the coordinates are given, nothing
            else comes of this mode.
        """
        image = {**self.image, "csys": coordinates, "nchan": nchan}
        if image["specmode"] == "cubedata":
            # The data's own frequencies, not to be converted. CASA learns that while it makes the
            # coordinates, which it does not here; it concludes the same from a frame of 'REST'
            # (``SynthesisParamsImage::buildCoordinateSystem``).
            image["outframe"] = "REST"
        elif not reselects:
            image["specmode"] = "cubedata"
        return replace(self, image=image)
