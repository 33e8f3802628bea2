#!/usr/bin/env bash
# Builds attnd, attn-worker, attnctl and libattn so that they run on another distribution with nothing but glibc (and the
# NVIDIA driver where there is a GPU): third-party libraries and the CUDA runtime are linked statically. The result
# is build-portable/attnd-portable.tar.gz and the unpacked tree beside it.
#
# Three libraries are built from the distribution's own source packages: the packaged archive of libmicrohttpd needs GnuTLS
# and all that hangs on it (without HTTPS it is 105 KB and needs only libc), those of jansson and protobuf-c are not
# position independent, which libattn.so needs.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/packages.sh

case "${1:-}" in
    "") ;;
    *)
        echo "usage: deploy/portable.sh   (ATTN_CUDA=OFF leaves the CUDA parts out)"
        [ "$1" = --help ] && exit 0
        exit 2
        ;;
esac

packages_install "${BUILD_PACKAGES[@]}" dpkg-dev ca-certificates

build=$PWD/build-portable
deps=$build/deps
mkdir -p "$build" "$deps/src"

# Source packages are not listed on most machines: a private list, so that the system's configuration stays as it is.
fetch_source() {
    local apt=$deps/apt keyring signed=
    mkdir -p "$apt/lists/partial"
    for keyring in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/ubuntu-archive-keyring.gpg; do
        [ ! -e "$keyring" ] || signed="[signed-by=$keyring] "
    done
    apt-get indextargets --format "deb-src $signed\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" 'Created-By: Packages' \
        'Origin: Debian' >"$apt/sources.list"
    apt-get indextargets --format "deb-src $signed\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" 'Created-By: Packages' \
        'Origin: Ubuntu' >>"$apt/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
        -o APT::Sandbox::User=root -qq)
    timeout 300 apt-get "${options[@]}" update
    (cd "$deps/src" && timeout 300 apt-get "${options[@]}" source --only-source "$1")
}

# In the unpacked source: autoconf's generated files look outdated by accident of unpacking, nothing is to be regenerated.
build_libmicrohttpd() {
    ./configure --prefix="$deps" --libdir="$deps/lib" --disable-https --disable-shared --enable-static --with-pic --disable-doc \
        --disable-examples --disable-tools --disable-curl AUTOMAKE=: AUTOCONF=: ACLOCAL=: AUTOHEADER=: MAKEINFO=: CFLAGS="$flags"
    make -j"$(nproc)" -C src/include
    make -j"$(nproc)" -C src/microhttpd libmicrohttpd.la
    make -C src/microhttpd install-libLTLIBRARIES
    make -C src/include install
    make install-pkgconfigDATA
}
build_jansson() {
    cmake -S . -B portable -G Ninja -DCMAKE_INSTALL_PREFIX="$deps" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
        -DCMAKE_C_FLAGS="$flags" -DJANSSON_BUILD_DOCS=OFF -DJANSSON_BUILD_SHARED_LIBS=OFF -DJANSSON_EXAMPLES=OFF \
        -DJANSSON_WITHOUT_TESTS=ON
    cmake --build portable
    cmake --install portable
}
build_protobuf-c() {
    cc $flags -fPIC -I. -c protobuf-c/protobuf-c.c -o protobuf-c.o
    ar rcs "$deps/lib/libprotobuf-c.a" protobuf-c.o
}

flags="-O2 -g0 -fstack-protector-strong"
mkdir -p "$deps/lib"
for source in libmicrohttpd:libmicrohttpd jansson:libjansson protobuf-c:libprotobuf-c; do
    name=${source%:*}
    [ ! -e "$deps/lib/${source#*:}.a" ] || continue
    say "building $name from its source package"
    set +e # inside an if or an || the subshell's own set -e would do nothing
    (
        set -e
        ls -d "$deps/src/$name"-*/ >/dev/null 2>&1 || fetch_source "$name"
        cd "$deps/src/$name"-*/
        "build_$name"
    ) >"$deps/$name.log" 2>&1 </dev/null
    status=$?
    set -e
    [ $status = 0 ] || {
        tail -30 "$deps/$name.log" >&2
        exit 1
    }
done

PKG_CONFIG_PATH=$deps/lib/pkgconfig cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DATTN_PORTABLE=ON -DBUILD_TESTING=OFF \
    -DATTN_BENCH=ON -DATTN_CUDA="${ATTN_CUDA:-ON}" -DCMAKE_PREFIX_PATH="$deps" -DCMAKE_INSTALL_PREFIX=/usr/local -DCMAKE_INSTALL_LIBDIR=lib
cmake --build "$build"

tree=$build/attnd-portable
rm -rf "$tree"
DESTDIR=$tree cmake --install "$build" --prefix / --strip >/dev/null
deploy/portable_check.sh "$tree"
tar -C "$build" -czf "$build/attnd-portable.tar.gz" attnd-portable
say "$(du -sh "$tree" | cut -f1) in $tree, $(du -h "$build/attnd-portable.tar.gz" | cut -f1) packed"
