#!/usr/bin/env bash
# Runs a job on this machine and, when it was preempted (exit 75: it saved a checkpoint), runs it again. A SIGTERM or ^C
# to this script goes on to the job, which saves and ends; it is then not run again.
#
#   launch/local.sh finetune --gin_file=models/zoo_draft.gin --gin_file=runs/finetune.gin \
#     --gin.MIXTURE_OR_TASK_NAME=wiki_leads --gin.MODEL_DIR=runs/draft --gin.TRAIN_STEPS=2000 \
#     --compilation_cache=runs/compiled
#   launch/local.sh distill --gin_file=runs/distill.gin --gin.TARGET=zoo:target --gin.DRAFT=runs/draft \
#     --gin.MIXTURE_OR_TASK_NAME=wiki_leads --gin.MODEL_DIR=runs/distilled --gin.TRAIN_STEPS=300 \
#     --compilation_cache=runs/compiled
#
# With --compilation_cache a job that is started again does not compile again.
#
# MAX_RESTARTS   how often at most (default 100)
# DISTILLSPEC    the command (default: distillspec on the PATH, else the one in this checkout's .venv)
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${DISTILLSPEC:-}" ]]; then
  DISTILLSPEC="$(command -v distillspec || echo "$root/.venv/bin/distillspec")"
fi
if [[ $# -eq 0 ]]; then
  echo "usage: launch/local.sh COMMAND [flags], as for distillspec" >&2
  exit 2
fi

stopping=
trap 'stopping=1; kill -TERM "$child" 2>/dev/null' TERM INT
for ((restart = 0; restart <= ${MAX_RESTARTS:-100}; restart++)); do
  "$DISTILLSPEC" "$@" <&0 &
  child=$!
  wait "$child"
  status=$?
  if [[ -n $stopping ]]; then
    wait "$child" # the first `wait` ended with the signal, not with the job
    exit $?
  fi
  [[ $status -eq 75 ]] || exit "$status"
  echo "launch/local.sh: preempted, going on (restart $((restart + 1)))" >&2
done
exit 75
