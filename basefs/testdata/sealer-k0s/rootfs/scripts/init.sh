#!/bin/bash
# Puts the programs where they are found; containerd.sh is not needed for that.
set -e
cp ../bin/* "${PREFIX:-/usr/bin}"
echo "init.sh [$1] [$2] [$3] in $(basename "$(pwd)") for $HostIP by $RegistryURL"
