#!/bin/sh
# Installs the tools of the tests that pip cannot install, on Debian as root: clang 19 for the Metal
# emulator, and Chromium for the page of the server. Elsewhere it prints what to do, and the tests
# report what they skip.
set -u

install() { # a command, its purpose, and the arguments of apt-get install
    command -v "$1" >/dev/null 2>&1 && return
    purpose=$2
    shift 2
    if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        echo "$purpose: not installed, so its tests are skipped. On Debian, as root:" \
            "apt-get install $*" >&2
        return
    fi
    echo "$purpose: installing $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } \
        >/dev/null 2>&1 || echo "$purpose: $* could not be installed; its tests are skipped" >&2
}

# On macOS Metal itself is there; the emulator is for Linux.
[ "$(uname -s)" = Darwin ] ||
    install clang++-19 "Metal emulator" clang-19 libclang-rt-19-dev llvm-19
install chromium "browser" --no-install-recommends chromium
