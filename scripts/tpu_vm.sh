#!/usr/bin/env bash
# A Cloud TPU slice from creation to deletion; docs/tpu.md tells the story.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/tpu_vm.sh COMMAND

  create    ask for the slice as a queued resource (spot unless SPOT=0) and wait until it is there
  install   put a new enough Python, the package and its TPU libraries on every worker
  doctor    devices and versions of every worker, and a checkpoint tried at OUT
  launch    start the same `pixelthink train` on every worker, in the background
  watch     follow the log of worker 0
  keep      create, install and launch again whenever the slice has been pre-empted, until the run has ended
  delete    give the slice back

settings, from the environment (those with * are needed):
  * NAME       of the slice                        * ZONE     such as us-west4-a
  * CONFIG     run config in the repository        * OUT      run folder on a store, such as gs://bucket/runs/mine
    TYPE       accelerator, v5litepod-16             RUNTIME  image of the VMs, v2-alpha-tpuv5-lite
    REPOSITORY what pip installs from, this tree     SPOT     1, or 0 for slices that are not pre-empted
    CACHE      of compiled programs, OUT/compiled    PROJECT  of gcloud, the configured one

example:
  NAME=think ZONE=us-west4-a CONFIG=configs/pixelthink_7b.yaml OUT=gs://bucket/runs/7b scripts/tpu_vm.sh keep
HELP
}

command=${1:---help}
if [ "$command" = --help ] || [ "$command" = -h ]; then
    usage
    exit 0
fi
for name in NAME ZONE CONFIG OUT; do
    [ -n "${!name:-}" ] || { echo "$name is not set; scripts/tpu_vm.sh --help lists the settings" >&2; exit 2; }
done
TYPE=${TYPE:-v5litepod-16} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} SPOT=${SPOT:-1} CACHE=${CACHE:-$OUT/compiled}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
LOG=pixelthink.log

on_all() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"; }

on_first() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=0 --command="$1"; }

state() {
    gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)' 2>/dev/null || echo NONE
}

create() {
    local spot=()
    [ "$SPOT" = 0 ] || spot=(--spot)
    gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
        --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${spot[@]}"
    until [ "$(state)" = ACTIVE ]; do
        case $(state) in FAILED | SUSPENDED) echo "the request ended as $(state)" >&2; return 1 ;; esac
        sleep 30
    done
}

# The images come with Python 3.10; uv brings one that is new enough.
install() {
    if [ -n "${REPOSITORY:-}" ]; then
        on_all "rm -rf pixelthink && git clone --depth 1 '$REPOSITORY' pixelthink"
    else
        local folder
        folder=$(mktemp -d)
        tar --exclude-vcs --exclude=.venv --exclude=runs --exclude=build -czf "$folder/pixelthink.tgz" -C "$ROOT" .
        gcloud compute tpus tpu-vm scp "$folder/pixelthink.tgz" "$NAME": "${where[@]}" --worker=all
        rm -r "$folder"
        on_all "rm -rf pixelthink && mkdir pixelthink && tar -xzf pixelthink.tgz -C pixelthink"
    fi
    on_all "curl -LsSf https://astral.sh/uv/install.sh | sh && cd pixelthink && ~/.local/bin/uv venv --python 3.12 .venv \
        && ~/.local/bin/uv pip install --python .venv/bin/python -c requirements/constraints.txt -e '.[tpu,gcs]'"
}

doctor() { on_all "cd pixelthink && .venv/bin/pixelthink doctor --checkpoint '$OUT' --config '$CONFIG'"; }

launch() {
    on_all "cd pixelthink && JAX_COMPILATION_CACHE_DIR='$CACHE' nohup setsid sh -c \
        '.venv/bin/pixelthink train --config $CONFIG --machine $TYPE --out $OUT; echo ended with status \$?' >~/$LOG 2>&1 </dev/null &"
}

watch() { on_first "tail -n 50 -F ~/$LOG"; }

delete() { gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet; }

# A slice that was pre-empted is SUSPENDED and does not come back by itself; the run goes on from its last checkpoint.
keep() {
    while true; do
        if [ "$(state)" != ACTIVE ]; then
            [ "$(state)" = NONE ] || delete
            create && install && launch || { sleep 60; continue; }
        fi
        last=$(on_first "tail -n 1 ~/$LOG" 2>/dev/null || true)
        case $last in
            "ended with status 0") echo "the run has ended; it is in $OUT"; return 0 ;;
            "ended with status 2") on_first "tail -n 3 ~/$LOG"; return 2 ;;
            "ended with status"*) launch ;;
        esac
        sleep 60
    done
}

case $command in
    create | install | doctor | launch | watch | keep | delete) "$command" ;;
    *) echo "unknown command $command; scripts/tpu_vm.sh --help lists them" >&2; exit 2 ;;
esac
