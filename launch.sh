#!/usr/bin/env bash
# The one entry to this project; see `usage` below. Needs bash and Python 3.11 or newer.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'TEXT'
usage: ./launch.sh COMMAND [arguments]

  quickstart            make a small data set, pretrain on it, fine-tune for questions and for
                        retrieval, and write one report
  test [pytest args]    run the default tests
  pretrain CONFIG ...   pretrain; `--optim.lr 3e-4` changes a field of the configuration;
                        `--processes N` and `--hostfile FILE` choose where it runs
  finetune CONFIG ...   fine-tune a pretrained model (--init EXPORT) for the task of CONFIG
  evaluate CONFIG ...   judge an exported model (--init EXPORT) on held-out data (--data.val SHARDS)
  config CONFIG ...     print the resolved configuration, documented
  doctor CONFIG ...     check data, sizes, memory and cost before any training
  report RUN            write RUN/report.html again
  explain ...           show where a model looks for each word of a text (`explain --help`)
  index-images DIR ...  put all pictures under DIR into an index (`index-images --help`)
  search "text" ...     find pictures of an index by a text, or by a picture (`search --help`)
  tools ...             make, render, index, inspect and validate shards
  lint                  ruff and mypy

The first command creates .venv here and installs the project into it; an active virtual or conda
environment is used instead.
TEXT
}

fail() {
    echo "launch.sh: $*" >&2
    exit 2
}

main() {
    local command="${1:-}"
    [ $# -gt 0 ] && shift
    case "$command" in
        quickstart | test | pretrain | finetune | evaluate | config | doctor | report | explain | \
            index-images | search | tools | lint)
            choose_python >&2
            "run_${command//-/_}" "$@"
            ;;
        help | -h | --help) usage ;;
        "") usage >&2; exit 2 ;;
        *) echo "launch.sh: unknown command '$command'" >&2; usage >&2; exit 2 ;;
    esac
}

# --- the commands -------------------------------------------------------------------------------

run_pretrain() { exec "$python" -m vlpretrain.cli.launch pretrain "$@"; }
run_finetune() { exec "$python" -m vlpretrain.cli.launch finetune "$@"; }
run_evaluate() { exec "$python" -m vlpretrain.cli.launch evaluate "$@"; }
run_config() { exec "$python" -m vlpretrain.cli.main config "$@"; }
run_doctor() { exec "$python" -m vlpretrain.cli.main doctor "$@"; }
run_report() { exec "$python" -m vlpretrain.cli.main report "$@"; }
run_explain() { exec "$python" -m vlpretrain.cli.main explain "$@"; }
run_index_images() { exec "$python" -m vlpretrain.cli.main index-images "$@"; }
run_search() { exec "$python" -m vlpretrain.cli.main search "$@"; }
run_tools() { exec "$python" -m data_tools "$@"; }
run_test() { cd "$root" && exec "$python" -m pytest "$@"; }

run_lint() {
    cd "$root"
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m mypy
}

# Data, pretraining, questions, retrieval, one report. Further arguments go to each training.
run_quickstart() {
    local home="$root/runs/quickstart" where=() story task
    story="$(fresh_folder "$home/run")"
    has_gpu || where=(--processes 2)
    render_scenes "$home/data/train" train 0 8000
    render_scenes "$home/data/val" val 1 200
    local data=(--data.train "$home/data/train" --data.val "$home/data/val")
    stage pretrain quickstart "$story/pretrain" "${where[@]}" "${data[@]}" "$@"
    for task in vqa retrieval; do
        stage finetune "quickstart_$task" "$story/$task" "${where[@]}" "${data[@]}" \
            --init "$story/pretrain/export" "$@"
    done
    "$python" -m vlpretrain.cli.main report "$story"/{pretrain,vqa,retrieval} \
        --out "$story/story.html" >/dev/null
    echo "the whole story, worth opening: $story/story.html"
}

# stage COMMAND CONFIG OUT [arguments]
stage() {
    local command="$1" config="$2" out="$3"
    shift 3
    echo "--- $config: $command"
    "$python" -m vlpretrain.cli.launch "$command" "$root/configs/$config.yaml" --out "$out" "$@"
}

# render_scenes FOLDER SPLIT SEED COUNT
render_scenes() {
    [ -d "$1" ] && return
    "$python" -m data_tools synth --out "$1" --split "$2" --seed "$3" --samples "$4" \
        --image-size 64 --shard-size 500 --workers "$(nproc)"
}

has_gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# The first of BASE, BASE-2, BASE-3, ... that does not exist.
fresh_folder() {
    local folder="$1" number=2
    while [ -e "$folder" ]; do
        folder="$1-$number"
        number=$((number + 1))
    done
    echo "$folder"
}

# --- the environment ----------------------------------------------------------------------------

# Sets $python to an interpreter that has the project and its dependencies.
choose_python() {
    # The modules of this checkout, from any folder, whatever else the environment holds.
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    local active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    if [ -n "$active" ] && [ "$active" != "$root/.venv" ]; then
        python="$active/bin/python"
        [ -x "$python" ] || fail "the active environment $active has no bin/python"
        is_recent "$python" || fail "the active environment $active has a Python older than 3.11"
        is_installed "$active" || requirements_met || install_into "$active"
    else
        python="$root/.venv/bin/python"
        has_pip "$python" || create_venv
        is_installed "$root/.venv" || install_into "$root/.venv"
    fi
}

create_venv() {
    local base
    base="$(find_python)" || fail "needs Python 3.11 or newer, and found none on the PATH"
    echo "creating $root/.venv with $("$base" --version)"
    rm -rf "$root/.venv"
    "$base" -m venv "$root/.venv" ||
        fail "could not create $root/.venv; on Debian and Ubuntu: apt install python3-venv"
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if command -v "$name" >/dev/null && is_recent "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_pip() { [ -x "$1" ] && "$1" -m pip --version >/dev/null 2>&1; }

# The stamp is written last: an interrupted installation has none, and is done again; so is one
# made from another list of dependencies.
is_installed() { [ "$(cat "$1/.vlpretrain-installed" 2>/dev/null)" = "$(fingerprint)" ]; }
fingerprint() { "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$root/pyproject.toml"; }

install_into() {
    has_pip "$python" || fail "the environment $1 has no pip; python -m ensurepip installs it"
    echo "installing vlpretrain and its dependencies into $1 (several minutes the first time)"
    rm -f "$1/.vlpretrain-installed"
    "$python" -m pip install --disable-pip-version-check --editable "$root[dev]" | show_progress ||
        fail "the installation failed; run the command again to go on"
    fingerprint >"$1/.vlpretrain-installed"
}

# pip's steps on one line of a terminal that is overwritten; in a log, its downloads alone.
show_progress() {
    local line
    while IFS= read -r line; do
        if [ -t 1 ]; then
            printf '\r\033[K%.*s' "$(($(tput cols 2>/dev/null || echo 80) - 1))" "$line"
        elif [[ "$line" =~ ^\ *(Downloading|Installing|Successfully) ]]; then
            printf '%.200s\n' "$line"
        fi
    done
    [ ! -t 1 ] || printf '\r\033[K'
}

# True when an environment that somebody else prepared already holds every dependency.
requirements_met() {
    "$python" - "$root/pyproject.toml" 2>/dev/null <<'PYTHON'
import importlib.metadata
import sys
import tomllib

from packaging.requirements import Requirement

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
    requirement = Requirement(text)
    version = importlib.metadata.version(requirement.name)
    if not requirement.specifier.contains(version, prereleases=True):
        sys.exit(f"{text}: {version}")
PYTHON
}

main "$@"
