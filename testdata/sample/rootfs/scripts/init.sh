#!/bin/sh
# Runs on every host before the runtime is installed.
set -eu
echo "preparing $(hostname)"
