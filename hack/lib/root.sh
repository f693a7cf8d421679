# Builds the lab's root and the images' base, each cached under the hash of its recipe.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh

root_packages=containerd,runc,criu,iproute2,nftables,iptables,python3,curl,procps,ca-certificates,busybox-static,util-linux,mount,tar,openssl,kmod

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

# Unpacks rclone alone from $RCLONE_SUITE: it is one static binary with no service and no configuration.
add_rclone() {
    local root=$1 list=/etc/apt/sources.list.d/rclone.list
    echo "deb $(mirror) $RCLONE_SUITE main" >"$root$list"
    # shellcheck disable=SC2016 # expanded by the shell inside
    chroot "$root" sh -ec '
        apt-get update -o Acquire::Check-Valid-Until=false -o Dir::Etc::sourcelist="$1" -o Dir::Etc::sourceparts=-
        cd /tmp
        apt-get download rclone/"$2"
        dpkg-deb --fsys-tarfile rclone_*.deb | tar -x -C / ./usr/bin/rclone
        rm -rf rclone_*.deb "$1" /var/lib/apt/lists/* /var/cache/apt/*.bin' sh "$list" "$RCLONE_SUITE"
}

lab_root() {
    printf '%s/root-%s\n' "$cache" "$(hash_of "$hack/versions" "$hack/lib/root.sh")"
}

build_root() {
    local root
    root=$(lab_root)
    [ -d "$root" ] && return
    bootstrap "$root_packages" "$root.new.$$" || return 1
    cp /etc/resolv.conf "$root.new.$$/etc/resolv.conf" 2>/dev/null || true
    add_rclone "$root.new.$$" || { rm -rf "$root.new.$$"; return 1; }
    mkdir -p "$root.new.$$"/{src,images,var/lib/containerd,var/lib/thaw}
    mv -T "$root.new.$$" "$root" 2>/dev/null || rm -rf "$root.new.$$"
    [ -d "$root" ]
}

# The base layer that every Debian image shares.
base_root() {
    printf '%s/base-%s\n' "$cache" "$(hash_of "$hack/versions" "$hack/lib/root.sh" "$hack/images/base")"
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
