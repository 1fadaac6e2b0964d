#!/bin/bash
echo "containerd.sh must not run"
exit 1
