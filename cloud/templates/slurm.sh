#!/bin/bash
#SBATCH --job-name=@{name}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks-per-node=@{gpus}
#SBATCH --gpus-per-node=@{gpus}
#SBATCH --cpus-per-task=@{cpus}
#SBATCH --mem=0
#SBATCH --time=@{time}
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=@{storage}
#SBATCH --output=@{storage}/@{workdir}/log.txt
# A process a GPU, as JAX finds them in a Slurm step. Five minutes before the time limit they are told to stop: they save
# and end with 75, and the job goes back into the queue; after a preemption or a lost node Slurm itself puts it there.
srun --cpus-per-task=@{cpus} @{command}
code=$?
case $code in 0 | 2) exit $code ;; esac # done, or a fault of the input
[ "${SLURM_RESTART_COUNT:-0}" -lt @{restarts} ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
