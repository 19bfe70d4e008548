#!/usr/bin/env bash
# Runs a job on this machine and, when it was preempted (exit 75: it saved a checkpoint), runs it again. A SIGTERM
# or ^C to this script goes on to the job, which saves and ends; it is then not run again.
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
# One of several hosts (DISTILLSPEC_MULTIHOST=1) is run again after a signal, too: when a host fails, JAX aborts the
# others (status 134), and they must all start again together.
#
# MAX_RESTARTS    how often in a row at most (default 20); a run of ten minutes or more starts the count anew
# RESTART_PAUSE   seconds before the first restart in a row (default 1); each pause is twice the last, up to 5 minutes
# DISTILLSPEC     the command (default: distillspec on the PATH, else the one in this checkout's .venv)
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${DISTILLSPEC:-}" ]]; then
  DISTILLSPEC="$(command -v distillspec || echo "$root/.venv/bin/distillspec")"
fi
if [[ $# -eq 0 ]]; then
  echo "usage: launch/local.sh COMMAND [flags], as for distillspec" >&2
  exit 2
fi

progress=600 pause_limit=300 # seconds
stopping=
child=
trap 'stopping=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT

# Waits for a process; its status is $status. A signal to this script goes on to it.
await() {
  child=$1
  # It may have come before the process was known.
  [[ -z $stopping ]] || kill -TERM "$child" 2>/dev/null
  wait "$child"
  status=$?
  if [[ -n $stopping ]]; then
    wait "$child" # the first `wait` may have ended with the signal, not with the process
    status=$?
  fi
  child=
}

goes_on() {
  [[ $1 -eq 75 ]] && return 0
  case "${DISTILLSPEC_MULTIHOST:-0}" in
    0 | [Ff]alse) return 1 ;;
  esac
  [[ $1 -ge 128 && $1 -ne 130 ]] # 130: ^C
}

restarts=0 pause="${RESTART_PAUSE:-1}"
while true; do
  began=$SECONDS
  "$DISTILLSPEC" "$@" <&0 &
  await $!
  if [[ -n $stopping ]] || ! goes_on "$status"; then
    exit "$status"
  fi
  if ((SECONDS - began >= progress)); then
    restarts=0 pause="${RESTART_PAUSE:-1}"
  fi
  if ((restarts >= ${MAX_RESTARTS:-20})); then
    echo "launch/local.sh: status $status, not run again after $restarts restarts in a row (MAX_RESTARTS)" >&2
    exit "$status"
  fi
  ended=$status
  restarts=$((restarts + 1))
  echo "launch/local.sh: status $ended, going on in $pause s (restart $restarts)" >&2
  sleep "$pause" &
  await $!
  if [[ -n $stopping ]]; then
    exit "$ended"
  fi
  pause=$((pause * 2 < pause_limit ? pause * 2 : pause_limit))
done
