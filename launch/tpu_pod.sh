#!/usr/bin/env bash
# Runs one job on every host of a Cloud TPU slice, from a machine that has gcloud.
#
#   TPU_NAME=v5e-32 ZONE=us-west4-a launch/tpu_pod.sh \
#     distill --gin_file=runs/distill.gin --gin.TARGET=/mnt/bucket/target --gin.DRAFT=/mnt/bucket/draft \
#       --gin.MIXTURE_OR_TASK_NAME=xsum --gin.MODEL_DIR=/mnt/bucket/distilled --gin.TRAIN_STEPS=10000 \
#       --compilation_cache=/tmp/compiled
#
# /mnt/bucket is a folder that every host sees: a bucket mounted with gcsfuse, or NFS.
#
# Before the first run, on every host (the same gcloud line with this --command):
#   git clone URL distillspec && cd distillspec && make setup && .venv/bin/pip install -e '.[tpu]'
#
# The hosts find each other through the TPU's metadata. Each runs launch/local.sh, which starts the job again when it
# was preempted and the host lives on. After the loss of a slice, create it anew and run this line again: the job
# goes on from its last checkpoint.
#
# The job does not need this terminal: ^C, or a connection that drops, leaves it running, and every host adds what it
# prints to distillspec.log in the checkout. To follow it again, and to save and end it:
#   gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --command='tail -f distillspec/distillspec.log'
#   gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
#     --command="pkill -TERM -f '^bash launch/local.sh'"
#
# REMOTE_DIR     the checkout on the hosts (default: distillspec, under the home folder)
# GCLOUD_FLAGS   more flags for gcloud, such as "--project=mine --tunnel-through-iap"
set -euo pipefail

if [[ $# -eq 0 || -z "${TPU_NAME:-}" || -z "${ZONE:-}" ]]; then
  echo "usage: TPU_NAME=NAME ZONE=ZONE launch/tpu_pod.sh COMMAND [flags], as for distillspec" >&2
  exit 2
fi

# Neither hanging up nor a reader that has gone ends the job; its status is what comes back.
job='trap "" HUP PIPE; launch/local.sh "$@" </dev/null 2>&1 | tee -a -i distillspec.log'
remote="cd ${REMOTE_DIR:-distillspec} && DISTILLSPEC_MULTIHOST=1 bash -o pipefail -c '$job' job$(printf ' %q' "$@")"
# shellcheck disable=SC2086  # several flags
exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all ${GCLOUD_FLAGS:-} --command="$remote"
