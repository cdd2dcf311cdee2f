#!/bin/bash
# A cube on many nodes: sbatch many_nodes.sh MEASUREMENT_SET IMAGENAME
#
# This job is a small one. It starts many_nodes.py, which submits the jobs of the workers; they may
# come and go while it runs. When its time is up, it stops between two steps and is queued again:
# the same call then goes on where it stopped.
#SBATCH --job-name=cube
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM two minutes before the end, to this shell.
#SBATCH --signal=B:TERM@120

# Use the Python in which casatasks, ptclean and dask-jobqueue are installed, for example
# source /software/casa/bin/activate

again() {
    kill -TERM "$driver"
    wait "$driver"
    scontrol requeue "$SLURM_JOB_ID"
}
trap again TERM

# sbatch runs a copy of this script; its folder is that of many_nodes.py when it is submitted there.
python "$SLURM_SUBMIT_DIR/many_nodes.py" "$@" &
driver=$!
wait "$driver"
