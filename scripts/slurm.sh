#!/usr/bin/env bash
# One process a node, all GPUs of a node to it; Slurm starts it again when a node fails or the time is up.
#SBATCH --job-name=pixelthink
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ] || [ $# -lt 2 ]; then
    cat <<'HELP'
usage: sbatch [SBATCH FLAGS] scripts/slurm.sh CONFIG OUT [FLAGS OF pixelthink train]

  CONFIG  run config with a mesh over all GPUs, such as {data: -1, fsdp: 8}
  OUT     run folder on a file system that all nodes share, or on an object store
  VENV    environment with the package, from the environment; .venv if not set

Five minutes before the time is up every process is told to stop: the run saves a checkpoint and ends, and the same
command, sent again, continues.

example:
  sbatch --nodes=2 scripts/slurm.sh configs/pixelthink_7b.yaml /shared/runs/7b
HELP
    [ "${1:-}" = --help ] || [ "${1:-}" = -h ]
    exit
fi
config=$1 out=$2
shift 2
# Slurm's variables tell JAX how many processes there are and where the first is.
exec srun --kill-on-bad-exit=1 "${VENV:-.venv}/bin/pixelthink" train --config "$config" --out "$out" "$@"
