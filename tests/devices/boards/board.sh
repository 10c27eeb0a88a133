#!/usr/bin/env bash
# A small ARM system for qemu-user: Python, a shell, and the processor's description as its kernel would give it.
#   board.sh FOLDER a76|a53|a7      a7 is 32-bit, with Debian's own ONNX Runtime 1.21, for which PyPI has no wheels
set -euo pipefail
root=$1 core=$2
here=$(cd "$(dirname "$0")" && pwd)
# A core that has no dot product must not say that it has: the engine would use it and be killed.
case $core in
  a76) part=0xd0b features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" ;;
  a53) part=0xd03 features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid" ;;
  a7) part=0xc07 features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm" ;;
esac
if [ "$core" = a7 ]; then
  bash "$here/debian.sh" "$root" armhf trixie python3-onnxruntime python3-soundfile busybox-static
  for folder in bin lib sbin; do ln -sfn "usr/$folder" "$root/$folder"; done
  libraries=$root/usr/lib/arm-linux-gnueabihf  # what packages' scripts and ldconfig would set up
  ln -sf blas/libblas.so.3 lapack/liblapack.so.3 "$libraries/"
  ln -sf libsndfile.so.1 "$libraries/libsndfile.so"
else
  bash "$here/debian.sh" "$root" arm64 bookworm python3.11-minimal libpython3.11-stdlib libstdc++6 libgcc-s1 busybox-static
fi
mkdir -p "$root"/{proc,dev,tmp,root,sys/devices/system/cpu}
for name in sh env cat rm uname ls; do
  ln -sf busybox "$root/bin/$name"
  [ -e "$root/usr/bin/$name" ] || ln -s ../../bin/busybox "$root/usr/bin/$name"
done
printf '#!/bin/sh\nexec /bin/sh "$@"\n' >"$root/bin/bash"  # root's login shell on the host
chmod 755 "$root/bin/bash"
for number in 0 1; do
  printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' "$number" "$features"
  printf 'CPU variant\t: 0x4\nCPU part\t: %s\nCPU revision\t: 1\n\n' "$part"
  mkdir -p "$root/sys/devices/system/cpu/cpu$number/topology"
  echo 0 >"$root/sys/devices/system/cpu/cpu$number/topology/physical_package_id"
  echo "$number" >"$root/sys/devices/system/cpu/cpu$number/topology/core_id"
done >"$root/cpuinfo"
for name in possible present online; do echo 0-1 >"$root/sys/devices/system/cpu/$name"; done
