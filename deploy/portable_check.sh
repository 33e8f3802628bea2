#!/usr/bin/env bash
# Says whether every program and library under a folder needs only glibc, of version 2.36 or older: what Debian 12,
# Ubuntu 24.04 and everything later have. Exits 1 and names each offender otherwise.
set -euo pipefail
allowed='^(linux-vdso\.so\.1|lib(c|m|dl|rt|pthread)\.so\.[0-9]+|ld-linux-x86-64\.so\.2)$'
bad=0 seen=0
while IFS= read -r -d '' file; do
    [ "$(head -c 4 "$file" | od -An -c | tr -d ' ')" = '177ELF' ] || continue
    seen=$((seen + 1))
    while read -r needed; do
        [[ $needed =~ $allowed ]] || { echo "$file needs $needed"; bad=1; }
    done < <(objdump -p "$file" | awk '$1 == "NEEDED" {print $2}')
    newest=$(objdump -T "$file" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -1)
    [ "$(printf '%s\n2.36\n' "$newest" | sort -V | tail -1)" = 2.36 ] || { echo "$file needs glibc $newest"; bad=1; }
done < <(find "$1" -type f -print0)
[ "$seen" -gt 0 ] || { echo "no programs under $1"; exit 1; }
[ "$bad" = 0 ] && echo "$seen files need only glibc 2.36 or older"
exit "$bad"
