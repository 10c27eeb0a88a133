#!/bin/sh
# In a mount namespace of its own: the board's folder at a place that sshd will chroot to, with its own /proc; then a program.
#   unshare -m enter.sh FOLDER PLACE PROGRAM...
set -eu
root=$1 place=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$place"
mount -t proc proc "$place/proc"
mount --bind "$root/cpuinfo" "$place/proc/cpuinfo"
mount --bind /dev "$place/dev"
exec "$@"
