#!/usr/bin/env bash
# Runs one job on every host of a Cloud TPU slice, from a machine that has gcloud.
#
#   TPU_NAME=v5e-32 ZONE=us-west4-a launch/tpu_pod.sh \
#     distill --gin_file=runs/distill.gin --gin.TARGET=/mnt/bucket/target --gin.DRAFT=/mnt/bucket/draft \
#       --gin.MIXTURE_OR_TASK_NAME=xsum --gin.MODEL_DIR=/mnt/bucket/distilled --gin.TRAIN_STEPS=10000 \
#       --compilation_cache=/tmp/compiled
#
# /mnt/bucket is a folder that every host sees: NFS, or a bucket mounted with gcsfuse as docs/scaling.md says (folders
# are renamed, which a bucket without a hierarchical namespace refuses by default).
#
# Before the first run, on every host (the same gcloud line with this --command). The image tpu-ubuntu2204-base has
# Python 3.10, and 3.11 is the oldest that does:
#   curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install 3.11 &&
#     git clone URL distillspec && cd distillspec &&
#     make setup PYTHON="$(~/.local/bin/uv python find 3.11)" && .venv/bin/pip install -e '.[tpu]'
#
# The hosts find each other through the TPU's metadata. Each runs launch/local.sh, which starts the job again when it
# was preempted, or aborted because another host failed, and the host lives on. After the loss of a slice, create it anew
# and run this line again: the job goes on from its last checkpoint. A Spot slice is taken away within 30 s: set
# --gin.SAVE_PERIOD to what you can lose.
#
# The job does not need this terminal: ^C, or a connection that drops, leaves it running, and every host adds what it
# prints to distillspec.log in the checkout. To follow it again, and to save and end it:
#   gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --command='tail -f distillspec/distillspec.log'
#   gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
#     --command="pkill -TERM -f '^bash launch/local.sh'"
#
# REMOTE_DIR     the checkout on the hosts (default: distillspec, under the home folder)
# GCLOUD_FLAGS   more flags for gcloud, such as "--project=mine --tunnel-through-iap"
#
# These variables go on to the hosts if they are set here: TFDS_DATA_DIR, DISTILLSPEC_CACHE, MAX_RESTARTS and
# RESTART_PAUSE (launch/local.sh), XLA_FLAGS, LIBTPU_INIT_ARGS.
set -euo pipefail

if [[ $# -eq 0 || -z "${TPU_NAME:-}" || -z "${ZONE:-}" ]]; then
  echo "usage: TPU_NAME=NAME ZONE=ZONE launch/tpu_pod.sh COMMAND [flags], as for distillspec" >&2
  exit 2
fi

# --shard=auto/N takes the host's index from TPU_WORKER_ID, which a TPU VM has in its metadata alone.
index=
if [[ "$*" == *--shard=auto* ]]; then
  place=http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number
  index="export TPU_WORKER_ID=\"\$(curl -sf -H Metadata-Flavor:Google $place)\" && "
fi
forwarded=(DISTILLSPEC_MULTIHOST=1)
for name in TFDS_DATA_DIR DISTILLSPEC_CACHE MAX_RESTARTS RESTART_PAUSE XLA_FLAGS LIBTPU_INIT_ARGS; do
  if [[ -n "${!name+set}" ]]; then
    forwarded+=("$name=${!name}")
  fi
done

# Neither hanging up nor a reader that has gone ends the job; its status is what comes back.
job='trap "" HUP PIPE; launch/local.sh "$@" </dev/null 2>&1 | tee -a -i distillspec.log'
job="env$(printf ' %q' "${forwarded[@]}") bash -o pipefail -c '$job' job$(printf ' %q' "$@")"
remote="cd ${REMOTE_DIR:-distillspec} && $index$job"
# shellcheck disable=SC2086  # several flags
exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all ${GCLOUD_FLAGS:-} --command="$remote"
