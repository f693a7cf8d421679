# Builds the lab's root and the images' base, each cached under the hash of its recipe.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh

# Raise it when bootstrap below changes in a way that cached roots must follow.
recipe_version=1
root_packages=containerd,runc,criu,iproute2,nftables,iptables,python3,curl,procps,ca-certificates,busybox-static,util-linux,mount,tar,openssl,kmod,docker.io,docker-cli,containernetworking-plugins,etcd-server,kubectl,conntrack,socat,ethtool,docker-registry

# The mirror that this machine's apt uses for Debian itself; other machines get Debian's own.
mirror() {
    local found=
    if command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016 # apt's own format string
        found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
            | grep -E '/debian/?$' | head -n 1 || true)
    fi
    printf '%s\n' "${THAW_MIRROR:-${found:-http://deb.debian.org/debian}}"
}

debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [ -f "$file" ] && printf '%s\n' "$file" && return
    done
    die "debian-archive-keyring is not installed"
}

# bootstrap PACKAGES DEST [MMDEBSTRAP ARGS...]: makes a root; DEST appears only when it is whole.
bootstrap() {
    local packages=$1 dest=$2 part=$2.part.$$ proxy
    shift 2
    proxy=$(apt-config dump --format '%v' Acquire::http::Proxy 2>/dev/null || true)
    mkdir -p "$(dirname "$dest")"
    # Testing and unstable mirrors may serve a Release file past its date; signatures are still checked.
    # Nothing here has to survive a crash, so dpkg need not sync.
    mmdebstrap --mode=root --variant=apt --include="$packages" --keyring="$(debian_keyring)" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        ${proxy:+--aptopt="Acquire::http::Proxy \"$proxy\""} \
        --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$@" "$LAB_SUITE" "$part" "deb $(mirror) $LAB_SUITE main" </dev/null || { rm -rf "$part"; return 1; }
    mv -T "$part" "$dest" 2>/dev/null || rm -rf "$part" # another run was faster
    [ -d "$dest" ]
}

# The S3 server of --s3. Prints the folder that holds it.
s3_server() {
    local dir=$cache/s3s-fs-$S3S_FS_VERSION
    if [ ! -x "$dir/bin/s3s-fs" ]; then
        command -v cargo >/dev/null || die "the S3 server is built with cargo; install it from https://rustup.rs"
        step "building the S3 server (s3s-fs $S3S_FS_VERSION)" build_s3_server "$dir" >&2
    fi
    printf '%s\n' "$dir/bin"
}

build_s3_server() {
    local build=$1.build.$$ status=0
    CARGO_TARGET_DIR=$build/target cargo install s3s-fs --version "$S3S_FS_VERSION" --locked --features binary --root "$build" \
        && mkdir -p "$1" && mv "$build/bin" "$1/" || status=$?
    rm -rf "$build"
    return "$status"
}

lab_root() {
    printf '%s/root-%s\n' "$cache" "$(printf '%s %s %s\n' "$LAB_SUITE" "$root_packages" "$recipe_version" | sha256sum | cut -c1-16)"
}

build_root() {
    local root
    root=$(lab_root)
    [ -d "$root" ] || bootstrap "$root_packages" "$root"
}

# The base layer that every Debian image shares.
base_root() {
    printf '%s/base-%s\n' "$cache" "$(printf '%s %s %s\n' "$LAB_SUITE" "$(hash_of "$hack/images/base")" "$recipe_version" | sha256sum | cut -c1-16)"
}

build_base() {
    local base
    base=$(base_root)
    [ -d "$base" ] || bootstrap "$(tr '\n' , <"$hack/images/base/packages")" "$base"
}

# needs_version NAME HAVE WANT
needs_version() {
    at_least "${2:-0}" "$3" || die "$1 is ${2:-missing}, but $3 or newer is needed"
}

# check_versions COMMAND-PREFIX...: asks the programs themselves (prefix: chroot ROOT, or nothing for the host).
check_versions() {
    needs_version containerd "$("$@" containerd --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true)" "$MIN_CONTAINERD"
    needs_version runc "$("$@" runc --version 2>/dev/null | sed -n '1s/^runc version \([0-9.]*\).*/\1/p' || true)" "$MIN_RUNC"
    needs_version criu "$("$@" criu --version 2>/dev/null | sed -n 's/^Version: //p' || true)" "$MIN_CRIU"
}
