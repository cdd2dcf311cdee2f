#!/bin/bash
# A cube on all cores of one node: sbatch one_node.sh MEASUREMENT_SET IMAGENAME
#
# The workers are started by the call itself, and end with it.
#SBATCH --job-name=cube
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=120G
#SBATCH --time=24:00:00

# Use the Python in which casatasks and ptclean are installed, for example
# source /software/casa/bin/activate

python - "$@" <<'SCRIPT'
import os, sys
from ptclean import ptclean as tclean

vis, imagename = sys.argv[1:]
workers = int(os.environ["SLURM_CPUS_PER_TASK"])
tclean(
    vis=vis, imagename=imagename, datacolumn="data", specmode="cube", imsize=80,
    cell="0.1arcsec", weighting="briggs", niter=100_000, threshold="20mJy",
    nworkers=workers,
    # SLURM ends the whole job where it takes more than --mem. This ends one worker before that, and
    # its work is done again. Leave it out where the node is yours alone.
    memory_limit=f"{int(os.environ['SLURM_MEM_PER_NODE']) // workers}MiB",
)
SCRIPT
