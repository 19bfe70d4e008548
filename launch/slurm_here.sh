#!/usr/bin/env bash
# A SLURM of one node on this machine, to try the scripts beside it. It needs root and, on Debian,
#   apt-get install --no-install-recommends slurm-wlm munge
#
#   export SLURM_CONF="$(launch/slurm_here.sh start /tmp/slurm)"    # a new folder for its state and logs
#   sbatch --partition=low --gpus-per-node=0 --cpus-per-task=1 launch/slurm.sbatch ...
#   sbatch --partition=high --wrap=true     # preempts what runs in the partition low
#   launch/slurm_here.sh stop /tmp/slurm
#
# The node has as many CPUs as the machine. A job in `low` that a job in `high` displaces gets SIGTERM, has GRACE seconds
# (default 120) to save, and goes back into the queue.
set -euo pipefail

if [[ $# -ne 2 || ! "$1" =~ ^(start|stop)$ ]]; then
  echo "usage: launch/slurm_here.sh start|stop FOLDER" >&2
  exit 2
fi
folder="$(realpath -m "$2")"

if [[ "$1" == stop ]]; then
  for daemon in slurmctld slurmd munged; do
    if [[ -f "$folder/$daemon.pid" ]]; then
      kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
    fi
  done
  exit 0
fi

mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
host="$(hostname -s)"
cat > "$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE:-120} State=UP
PartitionName=high Nodes=$host PriorityTier=2 PreemptMode=OFF State=UP
CONF
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
export SLURM_CONF="$folder/slurm.conf"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
slurmctld
slurmd
for ((tries = 0; tries < 100; tries++)); do
  if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 0.2
done
echo "launch/slurm_here.sh: the node does not come up, see $folder/slurmctld.log and slurmd.log" >&2
exit 1
