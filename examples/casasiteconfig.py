# SPDX-License-Identifier: GPL-3.0-or-later
# A CASA site configuration for the examples, the demo and the tests: measures data come from the
# package casadata, and nothing is downloaded. In use where CASASITECONFIG names this file; a
# user's own configuration (~/.casa) still wins, and is never touched.
import casadata

measurespath = casadata.datapath
measures_auto_update = False
data_auto_update = False
