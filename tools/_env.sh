# shellcheck shell=bash
# Private environments for quickstart.sh, run_tests.sh and the stock test. To be sourced; needs bash and a Python.
#
# make_env DIR FLAVOUR makes the environment DIR unless it is complete. FLAVOUR is `quickstart` (OneDL family, mmcv
# without ops), `tests` (plus mmseg, mmdet, compiled ops, test tools) or `stock` (stock family, without this project).
# A stamp, written last, is a checksum of what went in: without it the environment is made anew.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
REQ=$ROOT/requirements
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/randsac_mm
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
unset PYTHONHOME PYTHONPATH

say() { printf '%s\n' "$*"; }

die() {
    printf '\nFAILED: %s\n' "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

# Sets PYTHON to RANDSAC_PYTHON or the first suitable interpreter of the PATH, or explains what is missing.
find_python() {
    local candidate fix='or name a Python 3.11 or 3.12 with venv: RANDSAC_PYTHON=/path/to/python3.12 bash tools/...'
    local -a names=(python3.11 python3.12 python3 python)
    [[ -z ${RANDSAC_PYTHON:-} ]] || names=("$RANDSAC_PYTHON")
    while IFS= read -r candidate; do
        # In an activated environment this leads to the Python it was made with: ours may be about to go.
        PYTHON=$("$candidate" -c 'import ensurepip, sys, venv
print(sys._base_executable)
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null) && return
    done < <(type -aP "${names[@]}")
    die "no Python 3.11 or 3.12 that can make virtual environments among: ${names[*]}" \
        "Install one (Debian and Ubuntu: apt-get install python3 python3-venv), $fix"
}

# need_space GB: the clone's file system must have that much left.
need_space() {
    local free
    free=$(df -Pk "$ROOT" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    ((free >= $1)) || die "only $free GB are free on the disk of $ROOT, $1 GB are needed" 'Free some space.'
}

# env_key FLAVOUR: what an environment is made from. cksum is in POSIX; this is no protection.
env_key() { say "$1 $ROOT $(cat "$REQ"/*.txt | cksum)"; }

# lock FILE: one at a time; another run waits. Released by `exec 9>&-` or at exit. (macOS has no flock: no lock there.)
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "Another run holds $1; waiting for it ..."
        flock 9
    fi
}

# step TITLE USUALLY COMMAND...: runs the command with its output in $LOG, and a sign of life every 15 seconds.
step() {
    local title=$1 seconds=0 pid status=0
    STEP=$((STEP + 1))
    say "[$STEP/$STEPS] $title (usually $2)"
    shift 2
    printf '\n=== %s\n' "$*" >>"$LOG"
    "$@" >>"$LOG" 2>&1 8>&- 9>&- &
    pid=$!
    # shellcheck disable=SC2064  # the process of now is meant
    trap "kill $pid 2>/dev/null; die 'interrupted' 'Run the same command again; what is half made will be made anew.'" INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        ((seconds % 15)) || say "      ... $seconds s"
    done
    wait "$pid" || status=$?
    trap - INT TERM
    ((status == 0)) || explain "$title"
}

# explain TITLE: print the end of the log and the likely cause, and stop.
explain() {
    local tail advice='Read the log, then run the same command again.'
    tail=$(tail -n 25 "$LOG")
    case $tail in
        *'No space left'*) advice='The disk is full (TMPDIR counts too): free some space, run the same command again.' ;;
        *'No matching distribution'* | *'Max retries'* | *'name resolution'* | *'Connection'* | *'timed out'*)
            advice='No packages: is there a network, a proxy (HTTPS_PROXY) or a mirror (PIP_INDEX_URL)?' ;;
        *'Python.h'*) advice='Compiling needs the headers of Python (Debian: apt-get install python3-dev).' ;;
    esac
    printf '%s\n' "$tail" >&2
    die "$1" "$advice" "Whole log: $LOG"
}

pinned() { grep "^$1==" "$REQ/constraints.txt"; }

# build_ops DIR FOLDER: compiles mmcv's ops into a wheel in FOLDER. No pip cache: it may have a wheel without ops.
build_ops() {
    local temporary=$2/.build
    rm -rf "$temporary"
    mkdir "$temporary"
    MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} TMPDIR=$temporary "$1/bin/python" -m pip wheel \
        --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$temporary" "$(pinned onedl-mmcv)"
    mv "$temporary"/*.whl "$2/"
    rm -rf "$temporary"
}

# install_ops DIR: installs mmcv with ops, from the cache's folder for exactly this torch, Python and platform if it can.
install_ops() {
    local dir=$1 folder wheel
    folder=$CACHE/wheels/$("$dir/bin/python" -c "import os, sys, sysconfig, torch
device = 'cuda' if torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1' else 'cpu'
print('torch%s-cp%d%d-%s-%s' % (torch.__version__, *sys.version_info[:2], sysconfig.get_platform(), device))")
    lock "$folder/.lock"
    wheel=$folder/$(pinned onedl-mmcv | sed 's/onedl-mmcv==/onedl_mmcv-/')
    if compgen -G "$wheel-*.whl" >/dev/null; then
        STEP=$((STEP + 1))
    else
        command -v c++ >/dev/null || command -v g++ >/dev/null || die 'mmcv needs a C++ compiler for its ops' \
            'Debian and Ubuntu: apt-get install g++    (only the tests need this, tools/quickstart.sh does not)'
        step "compiling mmcv's ops, once for this torch and Python" '13 minutes on 2 cores' build_ops "$dir" "$folder"
    fi
    exec 9>&-
    step "mmcv's ops" '5 seconds' "$dir/bin/python" -m pip install --no-deps --force-reinstall "$wheel"-*.whl
    "$dir/bin/python" -c 'import torch, mmcv._ext' 2>>"$LOG" || { rm "$wheel"-*.whl && explain 'broken ops: removed'; }
}

make_env() {
    local dir=$1 flavour=$2 key imports='torch, torchvision, cv2, mmengine, mmcv, mmpretrain'
    local -a with pip
    key=$(env_key "$flavour")
    LOG=$dir.log
    lock "$dir.lock"
    # It is complete, and of RANDSAC_PYTHON's version if one is wished.
    if [[ -f $dir/.complete && $(<"$dir/.complete") == "$key" && -x $dir/bin/python ]] &&
        [[ -z ${RANDSAC_PYTHON:-} || $("$RANDSAC_PYTHON" -V) == "$("$dir/bin/python" -V)" ]]; then
        exec 9>&-
        return
    fi
    find_python
    need_space 8
    say "Making the environment $dir with $("$PYTHON" --version) ($PYTHON); details: $LOG"
    rm -f "$dir/.complete"  # first, so that an interrupted removal leaves no stamp
    rm -rf "$dir"
    : >"$LOG"
    STEP=0
    case $flavour in
        quickstart) STEPS=5 with=(-r "$REQ/mminstall.txt") ;;
        # ninja and psutil are for compiling mmcv's ops.
        tests) STEPS=7 with=(ninja psutil -r "$REQ/mminstall.txt" -r "$REQ/transfer.txt" -r "$REQ/optional.txt"
            -r "$REQ/tests.txt" -r "$REQ/docs.txt") ;;
        stock) STEPS=3 with=(-r "$REQ/stock.txt") ;;
        *) die "unknown flavour $flavour" 'Choose quickstart, tests or stock.' ;;
    esac
    pip=("$dir/bin/python" -m pip install -c "$REQ/constraints.txt")
    step 'a private environment' '5 seconds' "$PYTHON" -m venv "$dir"
    step 'torch and torchvision' '1 to 3 minutes, 2.5 GB to download' \
        "${pip[@]}" setuptools wheel "$(pinned torch)" "$(pinned torchvision)"
    # Without pip's cache, which might have a wheel of the same name with ops for another torch.
    [[ $flavour == stock ]] ||
        step 'mmcv without compiled ops' '10 seconds' "${pip[@]}" --no-cache-dir --no-deps onedl-mmcv
    step 'OpenMMLab and the other requirements' 'half a minute' "${pip[@]}" -r "$REQ/runtime.txt" "${with[@]}"
    # A machine without a desktop often lacks libGL, which opencv-python wants and opencv-python-headless does not.
    "$dir/bin/python" -c 'import cv2' >>"$LOG" 2>&1 || "$dir/bin/python" -m pip install --quiet --no-deps \
        --force-reinstall "$(pinned opencv-python-headless)" >>"$LOG" 2>&1 ||
        explain 'replacing OpenCV by its headless build'
    if [[ $flavour == tests ]]; then
        exec 8>&9  # keep the environment's lock while fd 9 guards the cache
        install_ops "$dir"
        exec 8>&-
        imports+=', mmcv._ext, mmseg, mmdet'
    fi
    if [[ $flavour != stock ]]; then
        step 'this project' '5 seconds' "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT"
        imports+=', randsac_mm'
    fi
    "$dir/bin/python" -c "import $imports" >>"$LOG" 2>&1 || explain "importing $imports"
    say "$key" >"$dir/.complete"
    exec 9>&-
}
