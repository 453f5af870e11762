# Sourced by the other scripts, in the checkout's root: the one virtual environment that they share.

fail() { echo "$(basename "$0"): $1" >&2; exit 1; }

# install_into_venv EXTRA: makes .venv/ if it is not there, and installs the package with that extra into it.
# PYTHON=python3.11 chooses another interpreter than python3, for a .venv that is made.
install_into_venv() {
    local interpreter=${PYTHON:-python3}
    if [ -x .venv/bin/python ]; then interpreter=.venv/bin/python; fi
    command -v "$interpreter" >/dev/null || fail "$interpreter: no such program; name one with PYTHON=..."
    "$interpreter" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
        fail "$interpreter is not Python 3.10, 3.11 or 3.12; name one with PYTHON=... (and remove .venv, if it is that)"
    if [ ! ".venv/installed-$1" -nt setup.py ]; then
        .venv/bin/python -m pip --version >/dev/null 2>&1 || "$interpreter" -m venv .venv ||
            fail "no virtual environment: install Python's venv module (Debian: apt-get install python3-venv)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]" ||
            fail "installing failed; pip says why above"
        touch ".venv/installed-$1"
    fi
}
