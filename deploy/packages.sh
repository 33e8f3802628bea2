# deploy/packages.sh: sourced by the scripts that must work on a fresh Debian or Ubuntu. Installs only what is missing,
# so that a machine that has everything needs neither network nor root.

BUILD_PACKAGES=(build-essential cmake ninja-build pkg-config libmicrohttpd-dev libprotobuf-c-dev protobuf-c-compiler
    libjansson-dev check)

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

packages_install() {
    local missing=() package root=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "no apt-get here: make sure that the equivalents of these Debian packages are installed: $*"
        return 0
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "these Debian packages are missing and there is no sudo to install them: ${missing[*]}"
            return 1
        fi
        root=(sudo)
        # Without a terminal nobody can type a password.
        [ -t 0 ] || root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    # The lists of a fresh image may be absent or too old: update when the first attempt fails.
    if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null 2>&1; then
        timeout 300 "${apt[@]}" update </dev/null >&2 || say "apt-get update failed; trying with the lists that are here"
        if ! timeout 1200 "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >&2; then
            say "could not install ${missing[*]}: install them by hand, or run this as root with network"
            return 1
        fi
    fi
}
